//! JSON between host and handler, byte for byte as the real host writes and reads it.

pub(crate) mod answer;
pub(crate) mod forwarding;
pub mod invocation;
mod newtonsoft;
pub(crate) mod spelling;

/// Appends a byte as a percent escape.
pub(crate) fn push_escape(out: &mut String, byte: u8) {
    newtonsoft::push(out, format_args!("%{byte:02X}"));
}
