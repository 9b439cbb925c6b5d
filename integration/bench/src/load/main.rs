//! `wattle-load` sends numbered datagrams at a set rate, and counts what arrives: lost, doubled, reordered per flow.
//!
//! ```text
//!     wattle-load send ADDRESS:PORT RUN PACKET RATE COUNT FLOWS    PACKET = bytes of the whole IP packet, RATE = packets per second
//!     wattle-load sink ADDRESS:PORT                                words on stdin: `begin RUN`, `report`; answers are lines on stdout
//! ```
//!
//! The sender is an open loop: it keeps to its clock whatever arrives, and catches up when it was held up. It ends with one
//! line of JSON; so does each `report`. Runs have numbers, so that a late datagram of one never counts for the next.

mod datagram;
mod flow;
mod send;
mod sink;

use anyhow::{Context, Result};

const USAGE: &str = "usage: wattle-load send ADDRESS:PORT RUN PACKET RATE COUNT FLOWS\n       wattle-load sink ADDRESS:PORT";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["send", target, run, packet, rate, count, flows] => send::send(&send::Order {
            target: number("ADDRESS:PORT", target)?,
            run: number("RUN", run)?,
            packet: number("PACKET", packet)?,
            rate: number("RATE", rate)?,
            count: number("COUNT", count)?,
            flows: number("FLOWS", flows)?,
        }),
        ["sink", at] => sink::sink(number("ADDRESS:PORT", at)?),
        _ => anyhow::bail!(USAGE),
    }
}

fn number<T>(what: &str, text: &str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse()
        .with_context(|| format!("{what} cannot be {text}"))
}
