//! Renders reports: a handler whose work is written in Rust.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use waybill::{App, Done, Failed, Job, Work};

/// An order, as `report.schema.json` lets it through.
#[derive(Deserialize)]
struct Report {
    title: String,
    pages: u32,
}

/// The work, and what it has done: a real one asks its database.
#[derive(Default)]
struct Render {
    rendered: Mutex<HashMap<String, String>>,
}

impl Work for Render {
    async fn run(&self, job: Job) -> Result<Done, Failed> {
        let report: Report = job.order()?;
        if report.title == "unprintable" {
            return Err(Failed::permanent("unprintable", "a report with this title cannot be rendered"));
        }
        if report.title == "busy" && job.attempt() == 1 {
            return Err(Failed::retryable("printer_busy", "the printer is busy").after(Duration::from_millis(100)));
        }
        for (number, stage) in (0..).zip(["reading", "drawing", "binding"]) {
            job.progress(number * 33, stage);
            tokio::select! {
                () = draw(&report) => {}
                () = job.cancelled() => return Err(Failed::cancelled()),
            }
        }
        let file = format!("{}.pdf", report.title);
        // The same key is the same order: an effect belongs under it.
        let mut rendered = self.rendered.lock().map_err(|_| Failed::retryable("restart", "an earlier report broke the renderer"))?;
        let file = rendered.entry(job.idempotency_key()).or_insert(file);
        Ok(json!({ "file": file, "pages": report.pages }).into())
    }

    fn estimate(&self) -> Duration {
        Duration::from_secs(3)
    }
}

async fn draw(report: &Report) {
    tokio::time::sleep(Duration::from_millis(50) * report.pages).await;
}

fn main() -> ExitCode {
    waybill::serve(App::builder().work(Render::default()))
}
