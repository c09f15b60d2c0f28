//! Where log lines go: errors to stderr, the rest to stdout, since the host reads every stderr line as an error.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for this process, to be called once: as JSON, one object a line, or as text. `levels` are those of each target,
/// e.g. `info,serving=debug`.
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
        tracing::warn!(%error, "RUST_LOG is not understood; logging at info; set e.g. RUST_LOG=info");
    }
}
