//! Networks in words, one line a link, and networks by rule.
//!
//! ```text
//! # ends   delay   what else
//! a b      5ms
//! b c      300us   jitter 1ms   loss 2%   over udp6   busy
//! ```

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Carrier, Micros};

use crate::fleet::{Fleet, NodeNumber};
use crate::network::Edge;

/// Nodes by name and what connects them.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The nodes' names, in the order of their numbers.
    pub names: Vec<String>,
    /// The edges.
    pub edges: Vec<Edge>,
}

/// A line that says nothing that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonsense {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it and what would be right.
    pub why: String,
}

impl std::fmt::Display for Nonsense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Nonsense {}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, Nonsense> {
        let mut plan = Self::default();
        let mut numbers = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let edge = plan.link(&mut numbers, &words);
            let edge = edge.and_then(|edge| plan.once(edge));
            plan.edges
                .push(edge.map_err(|why| Nonsense { line: at + 1, why })?);
        }
        Ok(plan)
    }

    /// A node that no links lead to from the first one, if there is one.
    pub fn unreached(&self) -> Option<&str> {
        let mut reached = BTreeSet::from([NodeNumber(0)]);
        loop {
            let ends = self.edges.iter().map(|edge| edge.ends);
            let touched = ends.filter(|ends| ends.iter().any(|end| reached.contains(end)));
            let touched: BTreeSet<_> = touched.flatten().collect();
            if touched.is_subset(&reached) {
                break;
            }
            reached.extend(touched);
        }
        let mut names = self.names.iter().enumerate();
        let lonely = names.find(|(at, _)| !reached.contains(&NodeNumber(*at)));
        lonely.map(|(_, name)| name.as_str())
    }

    fn link(
        &mut self,
        numbers: &mut BTreeMap<String, NodeNumber>,
        words: &[&str],
    ) -> Result<Edge, String> {
        let [a, b, delay, options @ ..] = words else {
            return Err("a link is two nodes and a delay, as in: a b 5ms".to_owned());
        };
        if a == b {
            return Err(format!("{a} cannot have a link to itself"));
        }
        let mut number = |name: &str| {
            *numbers.entry(name.to_owned()).or_insert_with(|| {
                self.names.push(name.to_owned());
                NodeNumber(self.names.len() - 1)
            })
        };
        let mut edge = Edge::new(number(a), number(b), span(delay)?);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut value = || {
                let value = options.next().copied();
                value.ok_or_else(|| format!("{option} lacks its value"))
            };
            match *option {
                "busy" => edge.busy = true,
                "jitter" => edge.jitter = span(value()?)?,
                "loss" => edge.loss_percent = percent(value()?)?,
                "duplicates" => edge.duplicate_percent = percent(value()?)?,
                "over" => edge.carrier = carrier(value()?)?,
                other => {
                    return Err(format!(
                        "{other} is none of: jitter, loss, duplicates, over, busy"
                    ));
                }
            }
        }
        Ok(edge)
    }

    /// The link, unless its ends have one over its carrier already.
    fn once(&self, edge: Edge) -> Result<Edge, String> {
        let [a, b] = edge.ends;
        let is_same = |other: &Edge| {
            other.carrier == edge.carrier && (other.ends == [a, b] || other.ends == [b, a])
        };
        match self.edges.iter().any(is_same) {
            true => Err(format!(
                "{} and {} have a link over {} already",
                self.names[a.0], self.names[b.0], edge.carrier
            )),
            false => Ok(edge),
        }
    }

    /// A ring of so many nodes.
    pub fn ring(count: usize, delay: Micros) -> Self {
        Self::of(count, (0..count).map(|at| (at, (at + 1) % count)), delay)
    }

    /// A grid of so many columns and rows.
    pub fn grid(columns: usize, rows: usize, delay: Micros) -> Self {
        let number = move |column, row| row * columns + column;
        let across = (0..rows)
            .flat_map(move |row| (1..columns).map(move |c| (number(c - 1, row), number(c, row))));
        let down = (1..rows)
            .flat_map(move |row| (0..columns).map(move |c| (number(c, row - 1), number(c, row))));
        Self::of(columns * rows, across.chain(down), delay)
    }

    /// A random connected network: rings through all nodes in random orders, two links of each node for each.
    pub fn random(seed: u64, count: usize, degree: usize, delay: Micros) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut links = BTreeSet::new();
        for _ in 0..degree.div_ceil(2) {
            let mut order: Vec<usize> = (0..count).collect();
            for at in (1..count).rev() {
                order.swap(at, (rng.next_u64() % (at as u64 + 1)) as usize);
            }
            let ring = (0..count).map(|at| (order[at], order[(at + 1) % count]));
            links.extend(ring.map(|(a, b)| (a.min(b), a.max(b))));
        }
        Self::of(count, links, delay)
    }

    fn of(count: usize, links: impl IntoIterator<Item = (usize, usize)>, delay: Micros) -> Self {
        let links: BTreeSet<_> = links
            .into_iter()
            .filter(|(a, b)| a != b)
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        Self {
            names: (0..count).map(|at| format!("n{at}")).collect(),
            edges: links
                .into_iter()
                .map(|(a, b)| Edge::new(NodeNumber(a), NodeNumber(b), delay))
                .collect(),
        }
    }

    /// The fleet of this plan; its nodes are off.
    pub fn fleet(&self, seed: u64) -> Fleet {
        let mut fleet = Fleet::new(seed, self.names.len());
        for edge in &self.edges {
            fleet.connect(edge.clone());
        }
        fleet
    }
}

fn span(word: &str) -> Result<Micros, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let read = units.into_iter().find_map(|(unit, factor)| {
        let number: u64 = word.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(factor)
    });
    read.map(Micros)
        .ok_or_else(|| format!("{word} is no time; write 300us, 5ms or 1s"))
}

fn percent(word: &str) -> Result<u32, String> {
    let number = word.strip_suffix('%').and_then(|text| text.parse().ok());
    number
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| format!("{word} is no percentage; write 0% to 100%"))
}

fn carrier(word: &str) -> Result<Carrier, String> {
    match word {
        "udp4" => Ok(Carrier::Udp4),
        "udp6" => Ok(Carrier::Udp6),
        "quic" => Ok(Carrier::Quic),
        other => Err(format!("{other} is none of: udp4, udp6, quic")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_it_was_written() {
        let plan =
            Plan::parse("# two links\na b 5ms\n\nb c 300us jitter 1ms loss 2% over quic busy\n");
        let plan = plan.expect("it is in order");
        assert_eq!(plan.names, ["a", "b", "c"]);
        let [ab, bc] = &plan.edges[..] else {
            panic!("{plan:?}");
        };
        assert_eq!((ab.delay, ab.loss_percent), (Micros(5_000), 0));
        assert_eq!(bc.ends, [NodeNumber(1), NodeNumber(2)]);
        assert_eq!((bc.delay, bc.jitter), (Micros(300), Micros(1_000)));
        assert_eq!(
            (bc.loss_percent, bc.carrier, bc.busy),
            (2, Carrier::Quic, true)
        );
    }

    #[test]
    fn nonsense_is_told_with_its_line() {
        for (text, line, word) in [
            ("a b", 1, "a b 5ms"),
            ("a a 5ms", 1, "itself"),
            ("a b 5ms\nb c 5", 2, "300us"),
            ("\na b 5ms loss 101%", 2, "100%"),
            ("a b 5ms loss", 1, "lacks"),
            ("a b 5ms over pigeon", 1, "quic"),
            ("a b 5ms colour red", 1, "jitter"),
            ("a b 5ms\na b 1ms over quic\n\nb a 9ms", 4, "already"),
        ] {
            let nonsense = Plan::parse(text).expect_err(text);
            assert!(
                nonsense.line == line && nonsense.why.contains(word),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn a_network_in_two_parts_is_noticed() {
        let plan = |text| Plan::parse(text).expect("it is in order");
        assert_eq!(plan("a b 5ms\nb c 5ms").unreached(), None);
        assert_eq!(plan("a b 5ms\nd c 5ms").unreached(), Some("d"));
    }

    #[test]
    fn generated_networks_have_the_links_that_they_should() {
        let delay = Micros(1);
        assert_eq!(Plan::ring(10, delay).edges.len(), 10);
        assert_eq!(Plan::grid(4, 3, delay).edges.len(), 3 * 3 + 4 * 2);
        let random = Plan::random(1, 1_000, 8, delay);
        assert!((3_900..=4_000).contains(&random.edges.len()));
    }

    #[test]
    fn a_grid_comes_up_and_keeps_every_promise() {
        let mut fleet = Plan::grid(4, 4, Micros::from_millis(2)).fleet(1);
        fleet.start_all();
        fleet.run(Micros::from_secs(30));
        assert_eq!(crate::oracle::check(&fleet), Ok(()));
    }
}
