//! Black-box tests: the real executable, real sockets, real files.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers are public to the modules of this binary, and a failed unwrap is a failed test"
)]

mod adoption;
mod auth;
mod backend;
mod callback;
mod cancel;
mod child;
mod clock;
mod console;
mod contract;
mod cosmos;
mod crash;
mod dead_letter;
mod disk;
mod docs;
mod doctor;
mod door;
mod emulator;
mod examples;
mod fake;
mod faults;
mod files;
mod foreign;
mod gateway;
mod health;
mod host;
mod hostile;
mod identity;
mod independent;
mod ingress;
mod invoke;
mod issuer;
mod limits;
mod list;
mod log;
mod metrics;
mod newer;
mod new_app;
mod openapi;
mod operate;
mod own_orders;
mod own_work;
mod package;
mod page;
mod panic;
mod processor;
mod queue;
mod replay;
mod service_bus;
mod settings;
mod show;
mod status;
mod store;
mod structure;
mod support;
mod sweeper;
mod terminal;
mod traces;
mod walk;
mod watch;
mod your_own;
