//! The SDK driver's in-memory emulator, and the requests that this program itself sends to it.

use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{Method, Request, Url};
use azure_data_cosmos_driver::in_memory_emulator::{
    ConsistencyLevel, ContainerConfig, InMemoryEmulatorHttpClient, VirtualAccountConfig, VirtualRegion, WriteMode,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::asked::Document;

const PARTITION_KEY: HeaderName = HeaderName::from_static("x-ms-documentdb-partitionkey");
const IF_MATCH: HeaderName = HeaderName::from_static("if-match");
const OFFER_THROUGHPUT: HeaderName = HeaderName::from_static("x-ms-offer-throughput");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("x-ms-retry-after-ms");
const SERIALIZATION_FORMATS: HeaderName = HeaderName::from_static("x-ms-cosmos-supported-serialization-formats");
const IS_QUERY: HeaderName = HeaderName::from_static("x-ms-documentdb-isquery");

/// The definition of the account, the database and the container.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) consistency: ConsistencyLevel,
    pub(crate) multi_write: bool,
    pub(crate) database: String,
    pub(crate) container: String,
    /// The container's properties: partition key, time to live, indexing policy.
    pub(crate) properties: Map<String, Value>,
    /// The container's throughput; `None`: nothing is throttled.
    pub(crate) ru_per_second: Option<u64>,
}

/// An account with one region, at `endpoint`.
#[derive(Debug)]
pub(crate) struct Emulator {
    client: InMemoryEmulatorHttpClient,
    endpoint: Url,
    definition: Definition,
}

/// An answer of the emulator.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

impl Emulator {
    pub(crate) fn new(port: u16, definition: Definition) -> Result<Self, String> {
        let endpoint: Url = format!("http://127.0.0.1:{port}/").parse().map_err(|error| format!("{error}"))?;
        if let Some(ru_per_second) = definition.ru_per_second {
            ContainerConfig::new().with_throughput(ru_per_second).build().map_err(|error| error.to_string())?;
        }
        let region = VirtualRegion::new("East US", endpoint.clone());
        let account = VirtualAccountConfig::new(vec![region])
            .map_err(|error| error.to_string())?
            .with_consistency(definition.consistency)
            .with_write_mode(if definition.multi_write { WriteMode::Multi } else { WriteMode::Single })
            .with_throttling_enabled(definition.ru_per_second.is_some());
        let client = InMemoryEmulatorHttpClient::try_new(account).map_err(|error| error.to_string())?;
        Ok(Self { client, endpoint, definition })
    }

    /// The only address that the emulator answers to.
    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// Whether the consistency level excludes stale reads.
    pub(crate) fn reads_are_fresh(&self) -> bool {
        matches!(self.definition.consistency, ConsistencyLevel::Strong | ConsistencyLevel::BoundedStaleness)
    }

    pub(crate) async fn execute(&self, request: &Request) -> Answer {
        let answer = match self.client.execute_request(request).await {
            Ok(response) => {
                let status = u16::from(response.status());
                let (_, headers, body) = response.deconstruct();
                body.collect().await.map(|body| Answer { status, headers, body }).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        answer.unwrap_or_else(|message| Answer::problem(500, "InternalServerError", &message))
    }

    pub(crate) async fn create_database(&self) -> Answer {
        let mut request = self.request(Method::Post, "dbs");
        request.set_body(json!({"id": self.definition.database}).to_string());
        self.execute(&request).await
    }

    pub(crate) async fn create_container(&self) -> Answer {
        let mut request = self.request(Method::Post, &format!("dbs/{}/colls", self.definition.database));
        if let Some(ru_per_second) = self.definition.ru_per_second {
            request.insert_header(OFFER_THROUGHPUT, ru_per_second.to_string());
        }
        let mut properties = self.definition.properties.clone();
        properties.insert("id".into(), self.definition.container.as_str().into());
        request.set_body(Value::from(properties).to_string());
        self.execute(&request).await
    }

    pub(crate) async fn delete_container(&self) -> Answer {
        self.execute(&self.request(Method::Delete, &self.container())).await
    }

    /// Whether the container with this link exists.
    pub(crate) async fn exists(&self, container: &str) -> bool {
        self.execute(&self.request(Method::Get, container)).await.is_success()
    }

    /// Reads a document as text JSON or as Cosmos binary JSON.
    pub(crate) async fn read(&self, document: &Document, binary: bool) -> Answer {
        let mut request = self.document_request(Method::Get, document);
        if binary {
            request.insert_header(SERIALIZATION_FORMATS, "CosmosBinary");
        }
        self.execute(&request).await
    }

    /// Deletes a document if it still has this etag.
    pub(crate) async fn delete(&self, document: &Document, etag: &str) -> Answer {
        let mut request = self.document_request(Method::Delete, document);
        request.insert_header(IF_MATCH, HeaderValue::from(etag.to_owned()));
        self.execute(&request).await
    }

    /// The container's `defaultTtl`; `None` if time to live is off.
    pub(crate) async fn default_ttl(&self, container: &str) -> Option<i64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Properties {
            default_ttl: Option<i64>,
        }
        let answer = self.execute(&self.request(Method::Get, container)).await;
        serde_json::from_slice::<Properties>(&answer.body).ok()?.default_ttl
    }

    /// The number of documents in the container; `None` if there is no container.
    pub(crate) async fn documents(&self) -> Option<u64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Counts {
            documents: Vec<u64>,
        }
        let mut request = self.request(Method::Post, &format!("{}/docs", self.container()));
        request.insert_header(IS_QUERY, "true");
        request.set_body(r#"{"query":"SELECT VALUE COUNT(1) FROM c"}"#);
        let answer = self.execute(&request).await;
        Some(serde_json::from_slice::<Counts>(&answer.body).ok()?.documents.iter().sum())
    }

    fn container(&self) -> String {
        format!("dbs/{}/colls/{}", self.definition.database, self.definition.container)
    }

    fn document_request(&self, method: Method, document: &Document) -> Request {
        let mut request = self.request(method, &format!("{}/docs/{}", document.container, document.id));
        request.insert_header(PARTITION_KEY, HeaderValue::from(document.partition_key.clone()));
        request
    }

    /// A request for a `path` that is not percent-encoded.
    fn request(&self, method: Method, path: &str) -> Request {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        Request::new(url, method)
    }
}

impl Answer {
    /// An error answer in the form of Cosmos DB.
    pub(crate) fn problem(status: u16, code: &str, message: &str) -> Self {
        let mut headers = Headers::new();
        headers.insert("content-type", "application/json");
        headers.insert("x-ms-request-charge", "0");
        Self { status, headers, body: json!({"code": code, "message": message}).to_string().into() }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: u64) -> Self {
        self.headers.insert(name, value.to_string());
        self
    }

    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get_optional_str(&HeaderName::from_static(name))
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The pause that a 429 asks for.
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        if self.status == 429 { self.headers.get_optional_str(&RETRY_AFTER_MS)?.parse().ok() } else { None }
    }
}
