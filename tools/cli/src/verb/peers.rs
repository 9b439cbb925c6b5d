//! `wattle peers`: the other nodes and how they are reached.

use std::path::Path;

use wattle_control::{PeerReport, PeerState, PeersReport};

use crate::agent;
use crate::failure::Outcome;
use crate::human::{UNKNOWN, bytes, micros, millis, or_unknown, percent};
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;

const HEADINGS: [(&str, Side); 12] = [
    ("NAME", Side::Left),
    ("ADDR", Side::Left),
    ("STATE", Side::Left),
    ("NEXT-HOP", Side::Left),
    ("HOPS", Side::Right),
    ("COST", Side::Right),
    ("RTT", Side::Right),
    ("LOSS", Side::Right),
    ("VIA", Side::Left),
    ("RX", Side::Right),
    ("TX", Side::Right),
    ("AGE", Side::Right),
];

/// Shows the peers.
pub(crate) fn run(socket: &Path, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.peers()?;
    let coloured = output.is_coloured();
    output.answer(answers::PEERS, &report, |report| table(report, coloured))
}

fn table(report: &PeersReport, coloured: bool) -> String {
    let mut table = Columns::new(coloured, &HEADINGS);
    for peer in &report.peers {
        let (state, mood) = match peer.state {
            PeerState::Direct => ("direct", Mood::Good),
            PeerState::Relayed => ("relayed", Mood::Good),
            PeerState::Unreachable => ("unreachable", Mood::Bad),
        };
        table.row(cells(peer, state), Some((2, mood)));
    }
    table.finish()
}

fn cells(peer: &PeerReport, state: &str) -> Vec<String> {
    vec![
        peer.node.name.clone(),
        or_unknown(peer.addresses.first(), ToString::to_string),
        state.to_owned(),
        or_unknown(peer.next_hop.as_ref(), |node| node.name.clone()),
        or_unknown(peer.hops, |hops| hops.to_string()),
        or_unknown(peer.cost_us, |cost| micros(cost.into())),
        or_unknown(peer.rtt_us, micros),
        or_unknown(peer.loss_ppm, percent),
        via(peer),
        bytes(peer.rx_bytes),
        bytes(peer.tx_bytes),
        or_unknown(peer.handshake_age_ms, millis),
    ]
}

fn via(peer: &PeerReport) -> String {
    match (&peer.leaf_of, peer.state) {
        (Some(host), _) => format!("leaf of {}", host.name),
        (None, PeerState::Unreachable) => UNKNOWN.to_owned(),
        (None, _) if peer.relayed => "relay".to_owned(),
        (None, _) => "wireguard".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_line_per_peer_with_the_way_to_it() {
        insta::assert_snapshot!(table(&sample::peers(), false), @"
        NAME   ADDR       STATE        NEXT-HOP  HOPS    COST     RTT  LOSS  VIA             RX      TX  AGE
        r2     10.77.0.2  direct       r2           1  13.1ms  24.2ms  3.0%  wireguard   1.2MiB  4.0KiB  12s
        r3     10.77.0.3  unreachable  -            -       -       -     -  -               0B      0B    -
        r4     10.77.0.4  relayed      r2           2  26.0ms  50.0ms    0%  relay       1.2MiB  4.0KiB  12s
        phone  10.77.1.9  relayed      r2           2  26.0ms  50.0ms    0%  leaf of r2  1.2MiB  4.0KiB  12s
        ");
    }
}
