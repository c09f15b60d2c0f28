//! Does the work of orders: change `run`.

use std::process::ExitCode;

use serde_json::{Value, json};
use waybill::{App, Done, Failed, Job, Work};

struct MyWork;

impl Work for MyWork {
    async fn run(&self, job: Job) -> Result<Done, Failed> {
        let order: Value = job.order()?;
        job.progress(50, "working");
        // An effect outside belongs under this key, so that it happens once.
        Ok(json!({ "order": order, "key": job.idempotency_key() }).into())
    }
}

fn main() -> ExitCode {
    waybill::serve(App::builder().work(MyWork))
}
