//! `OpenApi`: the contract, for clients and their generators.

use std::sync::{Arc, LazyLock};

use crate::envelope::{Answer, Response};
use crate::functions::app::App;
use crate::functions::invocation::Invocation;
use crate::functions::openapi;
use crate::functions::reply::Conclusion;

static CONTRACT: LazyLock<String> = LazyLock::new(openapi::json);

/// Answers with the contract.
pub async fn run(_app: Arc<App>, _invocation: Invocation) -> Conclusion {
    let headers = vec![("Content-Type", "application/json".to_owned()), ("Cache-Control", "public, max-age=300".to_owned())];
    Conclusion::new(Ok(Answer::respond(Response { status_code: 200, headers, body: CONTRACT.clone() })))
}
