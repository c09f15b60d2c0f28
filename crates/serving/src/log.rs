//! Log output: errors to stderr, all other lines to stdout, since the host reads every stderr line as an error.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::output::{self, Output, STDERR, STDOUT, Stream};
use crate::terminal;
use crate::trace::SPANS;

/// Target of lines for people at a terminal: [`Form::Short`] shows them, the other forms do not.
/// Their field `look` is their colour: `good`, `wait` or `bad`.
pub const PEOPLE: &str = "people";

/// Form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON objects.
    Json,
    /// Text with every field.
    Text,
    /// A time of day and a sentence: the lines for [`PEOPLE`], and every warning and error.
    Short,
}

/// What else gets spans and events, such as an exporter, each with a filter of its own.
pub type More = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging for this process; call it once. `levels` names the level of each target, e.g. `info,serving=debug`. What is returned
/// is dropped at the end of the command.
pub fn start(levels: &str, form: Form, more: Option<More>) -> Output {
    let output = output::start();
    let (levels, mistake) = match levels.parse::<Targets>() {
        Ok(levels) => (levels, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error)),
    };
    let people = if form == Form::Short { LevelFilter::INFO } else { LevelFilter::OFF };
    // What goes wrong here is told whatever else is wanted.
    let errors = (|| Plain { stream: &STDERR, is_filtered: false }).with_max_level(Level::ERROR);
    let warnings = (|| Plain { stream: &STDOUT, is_filtered: false }).with_max_level(Level::WARN);
    let writer = errors.or_else(warnings.or_else(|| Plain { stream: &STDOUT, is_filtered: true }));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let levels = levels.with_target(PEOPLE, people).with_target(SPANS, LevelFilter::OFF);
    // The stand-in passes the lines of its handler on to a terminal (https://bixense.com/clicolors).
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let colours = (io::stdout().is_terminal() || is_set("CLICOLOR_FORCE")) && !is_set("NO_COLOR");
    let registry = tracing_subscriber::registry().with(more);
    match form {
        Form::Json => registry.with(lines.json().flatten_event(true).with_filter(levels)).init(),
        Form::Text => registry.with(lines.with_ansi(colours).with_filter(levels)).init(),
        Form::Short => registry.with(lines.with_ansi(colours).event_format(ShortLine).with_filter(levels)).init(),
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, "RUST_LOG is not valid, the level is info; set e.g. RUST_LOG=info");
    }
    output
}

/// The time of day of a moment, in this machine's time zone; the moment is in milliseconds since the Unix epoch.
pub fn time_of_day(milliseconds: i64) -> String {
    let moment = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX);
    moment.to_zoned_datetime(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// This machine's clock, in milliseconds since the Unix epoch. A clock later than every date that can be told must end no process.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Writes lines whose text cannot change the direction of what follows.
struct Plain {
    stream: &'static Stream,
    is_filtered: bool,
}

impl Write for Plain {
    /// A line comes in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_filtered && !output::is_wanted(line) {
            return Ok(line.len());
        }
        if line.is_ascii() {
            self.stream.take(line);
        } else {
            self.stream.take(terminal::left_to_right(&String::from_utf8_lossy(line)).as_bytes());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of [`Form::Short`].
struct ShortLine;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for ShortLine {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut told = Told::default();
        event.record(&mut told);
        let (level, is_for_people) = (*event.metadata().level(), event.metadata().target() == PEOPLE);
        let colour = match (told.look.as_str(), level) {
            ("good", _) => "\x1b[32m",
            ("bad", _) | (_, Level::ERROR) => "\x1b[31m",
            ("wait", _) | (_, Level::WARN) => "\x1b[33m",
            _ => "",
        };
        let (on, off) = if writer.has_ansi_escapes() && !colour.is_empty() { (colour, "\x1b[0m") } else { ("", "") };
        let sort = if is_for_people { String::new() } else { format!("{level}: ") };
        writeln!(writer, "{}  {on}{sort}{}{}{off}", time_of_day(now()), told.message, told.fields)
    }
}

/// The parts of an event, without control characters.
#[derive(Default)]
struct Told {
    message: String,
    look: String,
    /// All other fields.
    fields: String,
}

impl Told {
    fn take(&mut self, name: &str, value: &str) {
        let value = terminal::printable(value);
        match name {
            "message" => self.message = value.into_owned(),
            "look" => self.look = value.into_owned(),
            // Writing to a string cannot fail.
            _ => drop(write!(self.fields, "  {name}={value}")),
        }
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"));
    }
}
