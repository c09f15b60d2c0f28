//! Log output: errors to stderr, all other lines to stdout, since the host reads every stderr line as an error.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for this process; call it once. Lines are JSON objects, or text. `levels` names the level of each target, e.g.
/// `info,serving=debug`.
pub fn start(levels: &str, json: bool) {
    let (levels, mistake) = match levels.parse::<Targets>() {
        Ok(levels) => (levels, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error)),
    };
    let writer = io::stderr.with_max_level(Level::ERROR).or_else(io::stdout);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let registry = tracing_subscriber::registry().with(levels);
    if json {
        registry.with(lines.json().flatten_event(true)).init();
    } else {
        let colours = io::IsTerminal::is_terminal(&io::stdout());
        registry.with(lines.with_ansi(colours)).init();
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, "RUST_LOG is not valid, the level is info; set e.g. RUST_LOG=info");
    }
}
