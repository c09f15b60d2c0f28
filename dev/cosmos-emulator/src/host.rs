//! The public port: the emulator as an account with authorization, expiry and faults.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::headers::{HeaderName, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};

use crate::asked::{Asked, Document, Operation, header};
use crate::authorization::Authorization;
use crate::connections::{Connection, Listening, Service, bind};
use crate::emulator::{Answer, Emulator};
use crate::expiry::Expiry;
use crate::faults::{Active, Fault, Faults, Kind};
use crate::figures::Figures;
use crate::stale::Before;
use crate::stored::{Stored, id};

/// Longest body, in bytes. More than the emulator accepts, so that the emulator refuses with the right status.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The substatus of a 404 for a document in a missing container.
const OWNER_NOT_FOUND: u64 = 1003;

const CONTENT_RESPONSE: HeaderName = HeaderName::from_static("x-ms-cosmos-populate-content-response-on-write");
const SERIALIZATION_FORMATS: HeaderName = HeaderName::from_static("x-ms-cosmos-supported-serialization-formats");

/// The state behind both ports.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) emulator: Emulator,
    pub(crate) authorization: Authorization,
    pub(crate) figures: Figures,
    pub(crate) faults: Faults,
    pub(crate) expiry: Expiry,
    /// The accept loop; `None` while connections are refused. The lock is held while the fault changes, so that changes do not overlap.
    listening: Mutex<Option<Listening>>,
}

impl Host {
    pub(crate) fn new(emulator: Emulator, authorization: Authorization) -> Self {
        Self {
            emulator,
            authorization,
            figures: Figures::default(),
            faults: Faults::default(),
            expiry: Expiry::new(),
            listening: Mutex::default(),
        }
    }

    /// Starts to accept connections.
    pub(crate) async fn listen(self: &Arc<Self>, listener: TcpListener) {
        *self.listening.lock().await = Some(Listening::start(listener, Arc::clone(self)));
    }

    /// Sets or clears the fault; the change is in force when this returns.
    pub(crate) async fn set_fault(self: &Arc<Self>, fault: Option<Fault>) -> io::Result<()> {
        let listening = self.listening.lock().await;
        let active = self.change_fault(fault, listening).await?;
        if let Some(active) = active
            && let Some(seconds) = active.fault.seconds
        {
            tokio::spawn(Arc::clone(self).end(active, seconds));
        }
        Ok(())
    }

    /// Creates the container as defined.
    pub(crate) async fn create_container(&self) -> Answer {
        let answer = self.emulator.create_container().await;
        self.expiry.forget_defaults();
        answer
    }

    /// Deletes the container with its documents.
    pub(crate) async fn delete_container(&self) -> Answer {
        let answer = self.emulator.delete_container().await;
        self.expiry.forget_defaults();
        answer
    }

    /// The number of documents; `None` if there is no container.
    pub(crate) async fn documents(&self) -> Option<u64> {
        self.expiry.sweep(&self.emulator).await;
        self.emulator.documents().await
    }

    async fn change_fault(
        self: &Arc<Self>,
        fault: Option<Fault>,
        mut listening: MutexGuard<'_, Option<Listening>>,
    ) -> io::Result<Option<Arc<Active>>> {
        let active = self.faults.replace(fault);
        if active.as_ref().is_some_and(|active| active.fault.kind == Kind::Refuse) {
            if let Some(listening) = listening.take() {
                listening.stop().await;
            }
        } else if listening.is_none() {
            let listener = bind(self.emulator.endpoint().port_or_known_default().unwrap_or_default())?;
            *listening = Some(Listening::start(listener, Arc::clone(self)));
        }
        Ok(active)
    }

    /// Ends a fault after its duration, unless it is over earlier.
    async fn end(self: Arc<Self>, active: Arc<Active>, seconds: f64) {
        if tokio::time::timeout(Duration::from_secs_f64(seconds), active.over()).await.is_ok() {
            return;
        }
        let listening = self.listening.lock().await;
        if self.faults.current().is_some_and(|current| Arc::ptr_eq(&current, &active))
            && let Err(error) = self.change_fault(None, listening).await
        {
            eprintln!("cosmos-emulator: cannot listen again: {error}");
        }
    }

    async fn serve(&self, request: Request<Incoming>, connection: &Connection) -> Answer {
        let (head, body) = request.into_parts();
        let asked = Asked::of(&head);
        self.figures.reached(asked.operation);
        let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
            return Answer::problem(413, "RequestEntityTooLarge", "Request size is too large");
        };
        if let Err(refusal) = self.authorization.check(&head.method, &asked, &head.headers) {
            self.figures.refused();
            return refusal.answer();
        }

        let hit = self.faults.hit(asked.operation);
        if let Some(active) = &hit {
            self.figures.faulted();
            if let Some(answer) = active.fault.answer() {
                return answer;
            }
            match active.fault.kind {
                Kind::Hang => {
                    active.over().await;
                    match connection.close().await {}
                }
                Kind::DropBefore => match connection.close().await {},
                _ => {}
            }
        }

        let mut answer = self.apply(&head, &asked, body.to_bytes()).await;
        if answer.status == 404 && asked.operation.is_document() && !self.emulator.exists(asked.container()).await {
            // Azure distinguishes a missing container from a missing document; the emulator does not.
            answer = answer.with_header("x-ms-substatus", OWNER_NOT_FOUND);
        }
        self.figures.charged(asked.operation, &answer);

        match hit.map(|active| (active.fault.kind, active.fault.delay())) {
            Some((Kind::DropAfterWrite, _)) => match connection.close().await {},
            Some((Kind::Delay, delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        answer
    }

    async fn apply(&self, head: &Parts, asked: &Asked, body: Bytes) -> Answer {
        self.expiry.sweep(&self.emulator).await;
        let Some(request) = self.to_request(head, body) else {
            return Answer::problem(405, "MethodNotAllowed", "The requested verb is not supported.");
        };
        match asked.operation {
            Operation::Read => self.read(head, asked, &request).await,
            Operation::Create | Operation::Replace => self.write(head, asked, request).await,
            Operation::Delete | Operation::Query => self.emulator.execute(&request).await,
            _ => {
                let answer = self.emulator.execute(&request).await;
                if head.method != hyper::Method::GET {
                    self.expiry.forget_defaults();
                }
                answer
            }
        }
    }

    async fn read(&self, head: &Parts, asked: &Asked, request: &azure_core::http::Request) -> Answer {
        if let Some(active) = self.faults.stale()
            && !self.emulator.reads_are_fresh()
            && let Some(document) = document(head, asked, asked.id())
            && let Some(answer) = active.replica.read(&document, &head.headers)
            && active.takes_read()
        {
            self.figures.faulted();
            return answer;
        }
        self.emulator.execute(request).await
    }

    /// Applies a write. The document is always requested in the answer, since its expiry depends on its content; a client that did not
    /// ask for it does not get it.
    async fn write(&self, head: &Parts, asked: &Asked, mut request: azure_core::http::Request) -> Answer {
        let default_ttl = self.expiry.default_ttl(&self.emulator, asked.container()).await;
        let active = self.faults.stale();
        if default_ttl.is_none() && active.is_none() {
            return self.emulator.execute(&request).await;
        }
        let mut before = None;
        if active.is_some() {
            let id = asked.id().map(str::to_owned).or_else(|| id(&Bytes::from(request.body())));
            if let Some(document) = document(head, asked, id.as_deref()) {
                before = Some(Before::of(&document, &self.emulator).await);
            }
        }
        if !asked.wants_content {
            request.insert_header(CONTENT_RESPONSE, "true");
            request.headers_mut().remove(SERIALIZATION_FORMATS);
        }

        let mut answer = self.emulator.execute(&request).await;

        if !answer.is_success() {
            return answer;
        }
        if let Some(stored) = Stored::of(&answer.body)
            && let Some(document) = document(head, asked, Some(&stored.id))
        {
            if let Some(default_ttl) = default_ttl {
                self.expiry.learn(&document, &stored, default_ttl);
            }
            if let (Some(active), Some(before)) = (active, before) {
                active.replica.record(document, before, &answer);
            }
        }
        if !asked.wants_content {
            answer.body.clear();
        }
        answer
    }

    /// The same request at the emulator's own address; `None` for a method that the SDK does not support.
    fn to_request(&self, head: &Parts, body: Bytes) -> Option<azure_core::http::Request> {
        let mut url = self.emulator.endpoint().clone();
        url.set_path(head.uri.path());
        url.set_query(head.uri.query());
        let mut request = azure_core::http::Request::new(url, head.method.as_str().parse().ok()?);
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            request.insert_header(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value));
        }
        request.set_body(body);
        Some(request)
    }
}

impl Service for Host {
    fn connected(&self) {
        self.figures.connected();
    }

    async fn answer(&self, request: Request<Incoming>, connection: Connection) -> Response<Full<Bytes>> {
        self.serve(request, &connection).await.into()
    }
}

impl From<Answer> for Response<Full<Bytes>> {
    /// The HTTP response; hyper adds a missing `Date`.
    fn from(answer: Answer) -> Self {
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() = answer.status.try_into().unwrap_or_default();
        let headers = response.headers_mut();
        for (name, value) in answer.headers {
            if let (Ok(name), Ok(value)) =
                (name.as_str().parse::<hyper::header::HeaderName>(), hyper::header::HeaderValue::from_str(value.as_str()))
            {
                headers.insert(name, value);
            }
        }
        response
    }
}

fn document(head: &Parts, asked: &Asked, id: Option<&str>) -> Option<Document> {
    let partition_key = header(&head.headers, "x-ms-documentdb-partitionkey")?;
    Some(Document { container: asked.container().to_owned(), id: id?.to_owned(), partition_key: partition_key.to_owned() })
}
