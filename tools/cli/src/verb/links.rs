//! `wattle links`: the links of this node with their measurements; `show` tells all about those to one neighbour.

use std::path::Path;

use wattle_control::{CostParts, LinkReport, LinksReport};
use wattle_model::LinkState;

use crate::agent;
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{bytes, clean, micros, millis, or_unknown, percent};
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;

const HEADINGS: [(&str, Side); 12] = [
    ("LINK", Side::Right),
    ("PEER", Side::Left),
    ("CARRIER", Side::Left),
    ("ENDPOINT", Side::Left),
    ("STATE", Side::Left),
    ("RTT", Side::Right),
    ("JITTER", Side::Right),
    ("LOSS", Side::Right),
    ("MTU", Side::Right),
    ("COST", Side::Right),
    ("REASON", Side::Left),
    ("HANDSHAKE", Side::Right),
];

/// Shows the links, or those to one neighbour.
pub(crate) fn run(socket: &Path, neighbour: Option<String>, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.links(neighbour)?;
    let coloured = output.is_coloured();
    output.answer(answers::LINKS, &report, |report| table(report, coloured))
}

/// Shows all that is known of the links to one neighbour.
pub(crate) fn show(socket: &Path, neighbour: &str, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.links(Some(neighbour.to_owned()))?;
    if report.links.is_empty() {
        let what = format!("no link to `{}`", clean(neighbour));
        return Err(Failure::new(
            Exit::NotFound,
            what,
            "this node has none",
            "wattle links",
        ));
    }
    output.answer(answers::LINKS, &report, |report| {
        report
            .links
            .iter()
            .map(block)
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn table(report: &LinksReport, coloured: bool) -> String {
    let mut table = Columns::new(coloured, &HEADINGS);
    for link in &report.links {
        table.row(cells(link), Some((4, mood(link.state))));
    }
    table.finish()
}

fn cells(link: &LinkReport) -> Vec<String> {
    vec![
        link.link.0.to_string(),
        link.peer.name.clone(),
        link.carrier.to_string(),
        or_unknown(link.endpoint, |endpoint| endpoint.to_string()),
        link.state.to_string(),
        or_unknown(link.rtt_us, micros),
        or_unknown(link.jitter_us, micros),
        or_unknown(link.loss_ppm, percent),
        or_unknown(link.mtu_bytes, |mtu| mtu.to_string()),
        or_unknown(link.cost, |cost| priced(cost.tier, cost.total_us)),
        or_unknown(
            Some(&link.reason).filter(|reason| !reason.is_empty()),
            Clone::clone,
        ),
        or_unknown(link.handshake_age_ms, millis),
    ]
}

const fn mood(state: LinkState) -> Mood {
    match state {
        LinkState::Up => Mood::Good,
        LinkState::Probing | LinkState::Suspect => Mood::Odd,
        LinkState::Down => Mood::Bad,
    }
}

/// A link in the form of `wg show`.
fn block(link: &LinkReport) -> String {
    let ago = |age| format!("{} ago", millis(age));
    let policy = link.policy.map(|policy| ("policy", policy.to_string()));
    let lines = [
        ("peer", format!("{} ({})", link.peer.name, link.peer.id)),
        (
            "endpoint",
            or_unknown(link.endpoint, |endpoint| endpoint.to_string()),
        ),
        ("state", link.state.to_string()),
        ("latest handshake", or_unknown(link.handshake_age_ms, ago)),
        (
            "fast channel",
            link.fast_channel.clone().unwrap_or("off".into()),
        ),
        (
            "transfer",
            format!(
                "{} received, {} sent",
                bytes(link.rx_bytes),
                bytes(link.tx_bytes)
            ),
        ),
        ("lanes", link.lanes.to_string()),
        ("rtt", rtt(link)),
        ("jitter", or_unknown(link.jitter_us, micros)),
        ("loss", or_unknown(link.loss_ppm, percent)),
        ("mtu", or_unknown(link.mtu_bytes, |mtu| mtu.to_string())),
        ("cost", or_unknown(link.cost, |cost| sum(&cost))),
    ];
    let mut text = format!("link: {} {}\n", link.link.0, link.carrier);
    for (name, value) in lines.into_iter().chain(policy) {
        text += &format!("  {name}: {}\n", clean(&value));
    }
    for apart in &link.apart {
        let policy = apart.policy.map(|policy| format!("; policy: {policy}"));
        let policy = policy.unwrap_or_default();
        text += &format!("  cost for {}: {}{policy}\n", apart.class, sum(&apart.cost));
    }
    text
}

fn rtt(link: &LinkReport) -> String {
    let least = link
        .min_rtt_us
        .map(|least| format!(" (least of the last minute {})", micros(least)));
    or_unknown(link.rtt_us, micros) + &least.unwrap_or_default()
}

/// A price as people read it: `13.1ms`, or `tier 1 + 13.1ms`.
pub(crate) fn priced(tier: u32, us: u32) -> String {
    match tier {
        0 => micros(us.into()),
        tier => format!("tier {tier} + {}", micros(us.into())),
    }
}

/// A price as the sum of its parts; parts that are zero are left out. Of links between others only the total is
/// told, so what the parts do not cover is theirs.
pub(crate) fn sum(cost: &CostParts) -> String {
    let parts = [
        ("base", cost.base_us),
        ("rtt", cost.rtt_us),
        ("jitter", cost.jitter_us),
        ("loss", cost.loss_us),
        ("carrier", cost.carrier_us),
        ("health", cost.health_us),
        ("policy", cost.policy_us),
        ("held", cost.held_us),
    ];
    let known = parts
        .iter()
        .fold(0_u32, |sum, (_, us)| sum.saturating_add(*us));
    let others = match known {
        0 => 0,
        known => cost.total_us.saturating_sub(known),
    };
    let parts = parts.into_iter().chain([("links of others", others)]);
    let parts: Vec<_> = parts
        .filter(|(_, us)| *us > 0)
        .map(|(name, us)| format!("{name} {}", micros(us.into())))
        .collect();
    let total = priced(cost.tier, cost.total_us);
    if parts.is_empty() {
        total
    } else {
        format!("{total} = {}", parts.join(" + "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_line_per_link_with_what_was_measured() {
        insta::assert_snapshot!(table(&sample::links(), false), @"
        LINK  PEER  CARRIER  ENDPOINT         STATE     RTT  JITTER  LOSS   MTU    COST  REASON         HANDSHAKE
           1  r2    udp4     192.0.2.2:51820  up     24.2ms   300us  3.0%  1360  13.1ms  rtt, loss 3 %        12s
           2  r3    udp6     -                down        -       -     -     -       -  -                      -
        ");
    }

    #[test]
    fn a_sum_covers_its_total_or_names_nothing() {
        let cost = |total_us, rtt_us| CostParts {
            total_us,
            rtt_us,
            ..CostParts::default()
        };
        assert_eq!(
            sum(&cost(300, 100)),
            "300us = rtt 100us + links of others 200us"
        );
        let in_tier = CostParts {
            tier: 2,
            ..cost(300, 300)
        };
        assert_eq!(sum(&in_tier), "tier 2 + 300us = rtt 300us");
        assert_eq!(sum(&cost(300, 300)), "300us = rtt 300us");
        assert_eq!(sum(&cost(300, 0)), "300us");
    }

    #[test]
    fn one_link_is_shown_as_wg_shows_a_peer() {
        insta::assert_snapshot!(block(&sample::links().links[0]), @"
        link: 1 udp4
          peer: r2 (0000000000000002)
          endpoint: 192.0.2.2:51820
          state: up
          latest handshake: 12s ago
          fast channel: aes-256-gcm
          transfer: 1.2MiB received, 4.0KiB sent
          lanes: 1
          rtt: 24.2ms (least of the last minute 24.0ms)
          jitter: 300us
          loss: 3.0%
          mtu: 1360
          cost: 13.1ms = base 100us + rtt 12.1ms + jitter 300us + loss 600us
          policy: weight 3
          cost for bulk: tier 1 + 12.7ms = base 100us + rtt 12.0ms + loss 600us; policy: tier 1
        ");
    }
}
