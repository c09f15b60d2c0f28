//! Black-box tests: the real executable, real sockets, real files.

mod support;
mod walk;
