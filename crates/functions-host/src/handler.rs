//! The handler: a program that the host starts, calls over HTTP, and ends.

pub(crate) mod client;
mod lines;
mod orphan;
pub(crate) mod replacing;
pub(crate) mod supervisor;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A loopback port that is free now; it is used for every start of a handler, as the host does. Below those that systems give to
/// connections (Linux: from 32768): one of these could take it while a handler is started again.
pub fn free_port() -> std::io::Result<u16> {
    const FIRST: u32 = 22_000;
    const NUMBER: u32 = 10_000;
    const TRIES: usize = 100;
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let random = |_| u16::try_from(FIRST + getrandom::u32().ok()? % NUMBER).ok();
    let listener = (0..TRIES).filter_map(random).find_map(|port| bind(port).ok()).map_or_else(|| bind(0), Ok)?;
    Ok(listener.local_addr()?.port())
}
