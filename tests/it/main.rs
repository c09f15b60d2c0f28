//! Black-box tests: the real executable, real sockets, real files.

#![expect(unreachable_pub, reason = "helpers are public to the modules of this binary")]

mod crash;
mod support;
mod walk;
