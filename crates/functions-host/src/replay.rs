//! Replay: recorded invocations are sent to a handler once more, in the order of their events, and its answers are compared.
//!
//! The handler is started as a host starts it, on a data directory of its own. Its outputs go nowhere: the queues that it reaches by the
//! REST protocol have no receiver.

pub(crate) mod kinds;
mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use group_commit::directory;
use hyper::header::{HeaderName, HeaderValue};
use serving::server::{self, Limits};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;
use uuid::Uuid;

use crate::activity::Activity;
use crate::app::App;
use crate::handler::client::Handler;
use crate::handler::supervisor;
use crate::host::Options;
use crate::host::launch::plan;
use crate::recording::recorder::Exchange;
use crate::recording::{Answer, Recording, body_of, bytes_of};
pub use crate::replay::compare::Difference;
use crate::replay::compare::compare;
use crate::replay::kinds::Learned;
pub use crate::replay::kinds::Names;
use crate::service_bus::broker::{Broker, Rules};
use crate::service_bus::rest::Rest;

/// Longest wait for an answer where the app has no `functionTimeout`.
const LONGEST: Duration = Duration::from_mins(30);
/// Time for the handler to end after SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What became of one invocation.
#[derive(Debug)]
pub struct Replayed<'r> {
    /// The invocation.
    pub recording: &'r Recording,
    /// The answer beside the recorded one.
    pub outcome: Outcome,
    /// Function of an invocation that ran at the same time: which of the two was first may differ from run to run.
    pub beside: Option<&'r str>,
}

/// An answer beside the recorded one.
#[derive(Debug)]
pub enum Outcome {
    /// They say the same, or there is none now as then.
    Same,
    /// They differ here.
    Differs(Vec<Difference>),
    /// There is none now, and was one then.
    NoAnswer(String),
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every invocation was sent.
    Whole,
    /// It was stopped.
    Stopped,
}

/// Why a replay did not begin or go on.
#[derive(Debug)]
pub enum Refused {
    /// The recordings are not those of this app.
    Recordings(String),
    /// The app or its handler does not start or go on: every reason, one line each.
    App(Vec<String>),
}

/// Sends recordings to a handler, and tells what became of each one once its answer is there. The data directory of the options does not
/// count. When this returns the handler has ended.
pub async fn run(
    options: &Options,
    environment: &BTreeMap<String, String>,
    recordings: &[Recording],
    names: &Names,
    tell: impl FnMut(&Replayed<'_>),
    stop: impl Future<Output = ()>,
) -> Result<Ended, Refused> {
    let one = |problem: String| Refused::App(vec![problem]);
    let mut app = App::load(&options.arguments.app, environment).map_err(|refusal| Refused::App(refusal.problems))?;
    app.settings.retain(|name, _| options.inherited.is_none_or(|is_inherited| is_inherited(name)));
    let own: BTreeSet<&str> = app.functions.iter().map(|function| function.name.as_str()).collect();
    if let Some(other) = recordings.iter().find(|recording| !own.contains(recording.function.as_str())) {
        let (function, of) = (&other.function, &other.app);
        let problem = format!("the app in {} has no function {function}, which was recorded of the app {of}", app.root.display());
        return Err(Refused::Recordings(problem));
    }

    let data = Temporary::new().map_err(|error| one(format!("cannot make a temporary directory: {error}")))?;
    let listener = server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(|error| one(format!("no port is free: {error}")))?;
    let rest_address = listener.local_addr().map_err(|error| one(error.to_string()))?;
    let port = options.arguments.port.or(app.local_host.http_port).unwrap_or(7071);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (plan, notice) = plan(options, &app, &data.0, address, rest_address, environment).map_err(Refused::App)?;
    for line in app.notices.iter().chain(&notice) {
        tracing::info!("{line}");
    }
    let open = data.0.clone();
    let rules = Rules { lock_duration: options.arguments.lock_duration, max_delivery_count: options.arguments.max_delivery_count };
    let broker = tokio::task::spawn_blocking(move || Broker::open(&open, rules)).await.map_err(|error| one(error.to_string()))?;
    let broker = broker.map_err(|error| one(error.to_string()))?;
    let mut settings = environment.clone();
    settings.extend(options.variables.clone());
    app.settings.extend(options.variables.clone());
    let rest = Arc::new(Rest::new(&app, &settings, broker.clone(), rest_address));
    let serving_rest = serve(rest, listener);

    let (stay, leaving) = watch::channel(());
    let (handler, supervisor) = supervisor::prepare(plan, !options.arguments.content_length, Activity::new(), leaving);
    let timeout = app.host.function_timeout.unwrap_or(LONGEST);
    let mut supervising = pin!(supervisor.run());
    let ended = tokio::select! {
        problem = &mut supervising => return Err(one(problem)),
        () = serving_rest => return Err(one("the REST protocol of Service Bus is not answered any more".into())),
        ended = play(handler, timeout, recordings, names, tell) => ended.map(|()| Ended::Whole),
        () = stop => Ok(Ended::Stopped),
    };
    drop(stay);
    if tokio::time::timeout(GRACE, supervising).await.is_err() {
        warn!("the handler did not end within {GRACE:?}; it is killed");
    }
    broker.close().await;
    ended
}

async fn serve(rest: Arc<Rest>, listener: TcpListener) {
    let answer = move |request| Arc::clone(&rest).answer(request);
    let limits = Limits { header_timeout: Duration::from_secs(75), max_connections: 256, drain_timeout: Duration::ZERO };
    server::serve(listener, answer, limits, std::future::pending()).await;
}

/// An event of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin(usize),
    End(usize),
}

/// Every event, in the order in which they were recorded.
fn events(recordings: &[Recording]) -> Vec<Event> {
    let all = recordings.iter().enumerate();
    let mut events: Vec<_> = all
        .flat_map(|(place, recording)| [(recording.began, Event::Begin(place)), (recording.ended.max(recording.began), Event::End(place))])
        .collect();
    events.sort();
    events.into_iter().map(|(_, event)| event).collect()
}

/// A call that runs.
struct Call<'r> {
    task: JoinHandle<Result<Answer, String>>,
    beside: Option<&'r str>,
}

async fn play(
    handler: Handler,
    timeout: Duration,
    recordings: &[Recording],
    names: &Names,
    mut tell: impl FnMut(&Replayed<'_>),
) -> Result<(), Refused> {
    if !handler.wait_for_first().await {
        // The supervisor says why.
        return std::future::pending().await;
    }
    let mut learned = Learned::default();
    let mut running: BTreeMap<usize, Call<'_>> = BTreeMap::new();
    for event in events(recordings) {
        match event {
            Event::Begin(place) => {
                let recording = &recordings[place];
                let request = request(recording, &learned).map_err(Refused::Recordings)?;
                let (handler, is_forwarded) = (handler.clone(), recording.forwarded);
                let task = tokio::spawn(async move { answer(&handler, request, is_forwarded, timeout).await });
                let beside = running.keys().next().map(|place| recordings[*place].function.as_str());
                for call in running.values_mut() {
                    call.beside.get_or_insert(&recording.function);
                }
                running.insert(place, Call { task, beside });
            }
            Event::End(place) => {
                let Some(Call { task, beside }) = running.remove(&place) else { continue };
                let recording = &recordings[place];
                let now = task.await.unwrap_or_else(|error| Err(error.to_string()));
                let outcome = match (&recording.answer, now) {
                    (None, Err(_)) => Outcome::Same,
                    (Some(_), Err(why)) => Outcome::NoAnswer(why),
                    (None, Ok(now)) => Outcome::Differs(vec![Difference::of_failure(recording.failure.as_deref(), now.status)]),
                    (Some(then), Ok(now)) => match compare(then, &now, recording.forwarded, names, &mut learned) {
                        differences if differences.is_empty() => Outcome::Same,
                        differences => Outcome::Differs(differences),
                    },
                };
                tell(&Replayed { recording, outcome, beside });
            }
        }
    }
    Ok(())
}

/// The request of a recording, with what stands now in the place of what the handler made up then.
fn request(recording: &Recording, learned: &Learned) -> Result<http::Request<Bytes>, String> {
    let then = &recording.request;
    let cannot = |what: &dyn std::fmt::Display| format!("the request of invocation {} cannot be sent: {what}", recording.invocation);
    let body = match &then.body {
        Some(text) => learned.applied(text).into_owned().into_bytes(),
        None => bytes_of(None, then.body_base64.as_ref()).unwrap_or_default(),
    };
    let request = http::Request::builder().method(then.method.as_str()).uri(learned.applied(&then.path).as_ref());
    let mut request = request.body(Bytes::from(body)).map_err(|error| cannot(&error))?;
    for (name, value) in &then.headers {
        let name = HeaderName::try_from(name).map_err(|error| cannot(&error))?;
        let value = HeaderValue::try_from(learned.applied(value).as_ref()).map_err(|error| cannot(&error))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

async fn answer(handler: &Handler, request: http::Request<Bytes>, is_forwarded: bool, timeout: Duration) -> Result<Answer, String> {
    let exchange = Exchange::default();
    let Ok(answered) = tokio::time::timeout(timeout, handler.resend(request, is_forwarded, &exchange)).await else {
        if let Some(generation) = exchange.generation.get() {
            handler.kill(*generation).await;
        }
        return Err(format!("it ran into functionTimeout ({timeout:?})"));
    };
    let answered = answered.map_err(|error| error.to_string())?;
    let (body, body_base64) = body_of(&answered.body);
    let headers = answered.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    Ok(Answer { status: answered.status.as_u16(), headers, body, body_base64 })
}

/// A data directory of this replay alone, removed at its end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("functions-host-replay-{}", Uuid::new_v4().simple()));
        directory::create_new(Path::new(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // The system removes temporary files that are left behind.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
