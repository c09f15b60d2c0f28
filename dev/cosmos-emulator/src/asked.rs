//! The purpose of a request, derived from its method, its path and a few headers.

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// The kind of a request: figures are kept and faults are chosen by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Operation {
    /// A read of the account, which clients do at the start and then at intervals.
    Account,
    /// Any request for a container itself.
    Container,
    /// A read of the container's partition key ranges.
    PartitionKeyRanges,
    /// A create or an upsert.
    Create,
    /// A point read.
    Read,
    /// A replace or a patch.
    Replace,
    /// A delete.
    Delete,
    /// A query, a query plan, or a feed of documents.
    Query,
    /// Any other request: databases, offers, batches.
    Other,
}

impl Operation {
    /// All kinds, indexed by their discriminants (`as usize`).
    pub(crate) const ALL: [Self; 9] = [
        Self::Account,
        Self::Container,
        Self::PartitionKeyRanges,
        Self::Create,
        Self::Read,
        Self::Replace,
        Self::Delete,
        Self::Query,
        Self::Other,
    ];

    /// Whether the request changes one document.
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Replace | Self::Delete)
    }

    /// Whether the request is about documents.
    pub(crate) fn is_document(self) -> bool {
        self.is_write() || matches!(self, Self::Read | Self::Query)
    }
}

/// The address of a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Document {
    /// The container's decoded link, e.g. `dbs/waybill/colls/orders`.
    pub(crate) container: String,
    pub(crate) id: String,
    /// The partition key header, not parsed: a client always writes the same key the same way.
    pub(crate) partition_key: String,
}

/// A request's purpose.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) operation: Operation,
    /// The decoded path, without its first slash.
    pub(crate) path: String,
    /// Whether the answer to a write must contain the document.
    pub(crate) wants_content: bool,
}

impl Asked {
    pub(crate) fn of(head: &Parts) -> Self {
        let path = percent_decode_str(head.uri.path().trim_start_matches('/')).decode_utf8_lossy().into_owned();
        let operation = operation(&head.method, &path, &head.headers);
        Self { operation, path, wants_content: wants_content(&head.headers) }
    }

    /// The container's link in a request about documents, e.g. `dbs/waybill/colls/orders`.
    pub(crate) fn container(&self) -> &str {
        let end = self.path.match_indices('/').nth(3).map_or(self.path.len(), |(at, _)| at);
        &self.path[..end]
    }

    /// The document's id in the path; creates and queries have none.
    pub(crate) fn id(&self) -> Option<&str> {
        self.path.splitn(6, '/').nth(5)
    }
}

/// The text of a header; `None` if it is absent or not text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn operation(method: &Method, path: &str, headers: &HeaderMap) -> Operation {
    let is_true = |name| header(headers, name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let is_query = || ["x-ms-documentdb-isquery", "x-ms-documentdb-query", "x-ms-cosmos-is-query-plan-request"].into_iter().any(is_true);
    let mut segments = [""; 6];
    let count = path.splitn(6, '/').zip(&mut segments).map(|(segment, place)| *place = segment).count();
    match (&segments[..count], method) {
        ([""], _) => Operation::Account,
        (["dbs", _, "colls"] | ["dbs", _, "colls", _], _) => Operation::Container,
        (["dbs", _, "colls", _, "pkranges", ..], _) => Operation::PartitionKeyRanges,
        (["dbs", _, "colls", _, "docs"], &Method::GET) => Operation::Query,
        (["dbs", _, "colls", _, "docs"], &Method::POST) if is_query() => Operation::Query,
        (["dbs", _, "colls", _, "docs"], &Method::POST) if !is_true("x-ms-cosmos-is-batch-request") => Operation::Create,
        (["dbs", _, "colls", _, "docs", _], &Method::GET) => Operation::Read,
        (["dbs", _, "colls", _, "docs", _], &Method::PUT | &Method::PATCH) => Operation::Replace,
        (["dbs", _, "colls", _, "docs", _], &Method::DELETE) => Operation::Delete,
        _ => Operation::Other,
    }
}

/// Whether the answer to a write must contain the document, by the same rule as in the emulator.
fn wants_content(headers: &HeaderMap) -> bool {
    match header(headers, "x-ms-cosmos-populate-content-response-on-write") {
        Some(value) => value.eq_ignore_ascii_case("true"),
        None => !header(headers, "prefer").is_some_and(|value| value.contains("return=minimal")),
    }
}
