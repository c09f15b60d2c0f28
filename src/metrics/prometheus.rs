//! Metrics as Prometheus reads them: the text format, version 0.0.4.
//!
//! Names follow the rules of OpenTelemetry for Prometheus: dots become underscores, and the unit and `_total` are added.

use std::fmt::Write;

use crate::metrics::Family;
use crate::metrics::instrument::{Kind, Value};

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of these metrics.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a string cannot fail.
        let _ = write(family, &mut text);
    }
    text
}

/// The name of a metric.
pub fn name(family: &Family) -> String {
    let mut name = underscored(family.name);
    if family.unit == "s" {
        name.push_str("_seconds");
    }
    if family.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

fn write(family: &Family, text: &mut String) -> std::fmt::Result {
    let name = name(family);
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.description)?;
    for series in &family.series {
        let labels: Vec<_> = series.labels.iter().map(|(name, value)| format!("{}=\"{value}\"", underscored(name))).collect();
        let labelled = |more: Option<String>| {
            let all: Vec<_> = labels.iter().cloned().chain(more).collect();
            if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
        };
        match &series.value {
            Value::Counter(number) => writeln!(text, "{name}{} {number}", labelled(None))?,
            Value::Gauge(number) => writeln!(text, "{name}{} {number}", labelled(None))?,
            Value::Histogram { bounds, counts, sum } => {
                let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
                let mut below = 0;
                for (bound, count) in bounds.zip(counts) {
                    below += count;
                    writeln!(text, "{name}_bucket{} {below}", labelled(Some(format!("le=\"{bound}\""))))?;
                }
                writeln!(text, "{name}_sum{} {sum}\n{name}_count{} {below}", labelled(None), labelled(None))?;
            }
        }
    }
    Ok(())
}

fn underscored(name: &str) -> String {
    name.replace('.', "_")
}
