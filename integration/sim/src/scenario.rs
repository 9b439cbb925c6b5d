//! A run from a seed: a random network comes up, is broken in random ways, is mended, and must settle.

use wattle_model::{Carrier, Class, Instant, Micros};
use wattle_routing::{Health, Input, Policies, PolicyRule, Thousandths};

use crate::fleet::{Fleet, NodeNumber};
use crate::network::{Edge, EdgeNumber};
use crate::oracle::{self, Violation};

/// How long things are broken, and how long they may take to settle afterwards.
const TROUBLE: Micros = Micros::from_secs(15);
const QUIET: Micros = Micros::from_secs(20);
/// Longest time after that for a link that flapped often to be trusted again, or a price to be told.
const PATIENCE: Micros = Micros::from_secs(60);

/// What a run was, if it kept all promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// Edges.
    pub edges: usize,
    /// What was done, and when.
    pub story: Vec<String>,
    /// Datagrams sent.
    pub sent: u64,
    /// When the run ended, on the fleet's clock.
    pub ended: Instant,
}

/// A run that broke a promise: everything needed to understand it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed: running it again is the same run.
    pub seed: u64,
    /// What was done, and when.
    pub story: Vec<String>,
    /// The promise.
    pub violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "seed {} broke a promise: {}",
            self.seed, self.violation.0
        )?;
        self.story
            .iter()
            .try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(
            f,
            "replay: WATTLE_SIM_SEED={} cargo test -p wattle-sim --test seeds",
            self.seed
        )
    }
}

/// Runs the scenario of a seed.
///
/// # Errors
/// A promise was broken.
pub fn run(seed: u64) -> Result<Report, Failure> {
    let mut run = Run::new(seed);
    run.build();
    run.break_things();
    run.mend();
    run.settle().map_err(|violation| Failure {
        seed,
        story: run.story.clone(),
        violation,
    })?;
    Ok(Report {
        nodes: run.fleet.nodes.len(),
        edges: run.fleet.network.edges.len(),
        story: run.story,
        sent: run.fleet.sent.datagrams,
        ended: run.fleet.now,
    })
}

struct Run {
    fleet: Fleet,
    story: Vec<String>,
    /// What will be mended when the trouble is over, and when nodes that crashed come back.
    restarts: Vec<(Instant, NodeNumber)>,
    removed: Option<NodeNumber>,
    /// Whether operators price classes apart.
    prices_apart: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut fleet = Fleet::new(seed, 0);
        let count = 3 + fleet.below(6) as usize;
        Self {
            fleet: Fleet::new(seed ^ 0x5eed, count),
            story: Vec::new(),
            restarts: Vec::new(),
            removed: None,
            prices_apart: seed % 3 == 1,
        }
    }

    fn tell(&mut self, line: impl std::fmt::Display) {
        let at = self.fleet.now.0 / 1_000;
        self.story.push(format!("{at} ms: {line}"));
    }

    /// A random tree, so that all are connected, and some edges more.
    fn build(&mut self) {
        let count = self.fleet.nodes.len();
        for node in 1..count {
            let parent = self.fleet.below(node as u64) as usize;
            self.connect(node, parent);
        }
        for _ in 0..self.fleet.below(2 * count as u64) {
            let (a, b) = (self.some_node(), self.some_node());
            if a != b {
                self.connect(a.0, b.0);
            }
        }
        if self.prices_apart {
            (0..count).for_each(|node| self.price_apart(NodeNumber(node)));
        }
        for node in 0..count {
            self.fleet.start(NodeNumber(node));
            let pause = self.fleet.below(300);
            self.fleet.run(Micros::from_millis(pause));
        }
        self.tell(format!(
            "{count} nodes, {} edges started",
            self.fleet.network.edges.len()
        ));
        self.fleet.run(Micros::from_secs(2));
    }

    /// Some operators price a class apart, some of them only their links to one neighbour, some of those in another tier.
    fn price_apart(&mut self, node: NodeNumber) {
        let other = self.some_node();
        let other = self.fleet.nodes[other.0].id;
        let rules = Class::APART.map(|class| PolicyRule {
            neighbour: (self.fleet.below(2) == 0).then_some(other),
            class: Some(class),
            multiplier: Some(Thousandths(100 + self.fleet.below(3_000) as u32)),
            addend: Some(Micros(self.fleet.below(20_000))),
            tier: (self.fleet.below(4) == 0).then_some(1),
            ..PolicyRule::default()
        });
        let apart = Class::APART
            .into_iter()
            .filter(|_| self.fleet.below(2) == 0);
        let policies = Policies {
            rules: rules.to_vec(),
            apart: apart.collect(),
        };
        self.tell(format!("{node:?} prices {:?} apart", policies.apart));
        self.fleet.set_policies(node, policies);
    }

    fn connect(&mut self, a: usize, b: usize) {
        let (a, b) = (NodeNumber(a.min(b)), NodeNumber(a.max(b)));
        let delay = Micros(100 + self.fleet.below(15_000));
        let jitter = Micros(self.fleet.below(2_000));
        let parallel = |carrier| {
            let edges = &self.fleet.network.edges;
            edges
                .iter()
                .any(|edge| edge.ends == [a, b] && edge.carrier == carrier)
        };
        let carrier = match (parallel(Carrier::Udp4), parallel(Carrier::Udp6)) {
            (false, _) => Carrier::Udp4,
            (true, false) => Carrier::Udp6,
            (true, true) => return,
        };
        let duplicate_percent = self.fleet.below(3) as u32;
        self.fleet.connect(Edge {
            carrier,
            jitter,
            duplicate_percent,
            ..Edge::new(a, b, delay)
        });
    }

    fn break_things(&mut self) {
        let end = self.fleet.now + TROUBLE;
        while self.fleet.now < end {
            let pause = self.fleet.below(2_000);
            self.fleet.run(Micros::from_millis(pause));
            self.restart_due();
            self.one_fault();
        }
    }

    fn one_fault(&mut self) {
        let edge = EdgeNumber(self.fleet.below(self.fleet.network.edges.len() as u64) as usize);
        let node = self.some_node();
        match self.fleet.below(13) {
            0 | 1 => {
                self.tell(format!("{edge:?} is cut"));
                self.edge(edge).cut = [true, true];
            }
            2 => {
                self.tell(format!("{edge:?} is cut one way"));
                self.edge(edge).cut = [true, false];
            }
            3 | 4 => {
                self.tell(format!("{edge:?} is whole"));
                self.edge(edge).cut = [false, false];
            }
            5 => {
                let loss = self.fleet.below(50) as u32;
                self.tell(format!("{edge:?} loses {loss} %"));
                self.edge(edge).loss_percent = loss;
            }
            6 => {
                let delay = Micros(100 + self.fleet.below(60_000));
                self.tell(format!("{edge:?} takes {delay:?}"));
                self.edge(edge).delay = delay;
            }
            7 => self.partition(),
            8 => self.crash(node),
            9 => {
                let span = Micros::from_millis(50 + self.fleet.below(1_500));
                self.tell(format!("{node:?} freezes for {span:?}"));
                self.fleet.freeze(node, span);
            }
            10 => {
                let health = Health {
                    load: self.fleet.below(101) as u8,
                    drained: self.fleet.below(4) == 0,
                    bias: Micros(0),
                };
                self.tell(format!("{node:?} has {health:?}"));
                self.fleet.tell(node, Input::Health(health));
            }
            11 => {
                self.tell(format!("{edge:?} is busy"));
                self.fleet.set_busy(edge, true);
            }
            _ => self.remove_somebody(node),
        }
    }

    fn partition(&mut self) {
        let side = self.fleet.below(1 << self.fleet.nodes.len());
        self.tell(format!("partition {side:b}"));
        for edge in &mut self.fleet.network.edges {
            let sides = edge.ends.map(|end| side >> end.0 & 1);
            if sides[0] != sides[1] {
                edge.cut = [true, true];
            }
        }
    }

    fn crash(&mut self, node: NodeNumber) {
        if self.fleet.nodes[node.0].process.is_none() || self.removed == Some(node) {
            return;
        }
        let amnesia = self.fleet.below(3) == 0;
        self.tell(format!(
            "{node:?} crashes{}",
            if amnesia {
                " and forgets its epoch"
            } else {
                ""
            }
        ));
        self.fleet.crash(node);
        if amnesia {
            self.fleet.forget_epoch(node);
        }
        let back = self.fleet.now + Micros::from_millis(100 + self.fleet.below(5_000));
        self.restarts.push((back, node));
    }

    fn restart_due(&mut self) {
        let now = self.fleet.now;
        let (due, later) = self.restarts.drain(..).partition(|(at, _)| *at <= now);
        self.restarts = later;
        let due: Vec<(Instant, NodeNumber)> = due;
        for (_, node) in due {
            self.tell(format!("{node:?} starts"));
            self.fleet.start(node);
        }
    }

    /// At most one node of a run is removed; its removal is told to one other node only.
    fn remove_somebody(&mut self, node: NodeNumber) {
        let witness = self.some_node();
        let witness_runs = self.fleet.nodes[witness.0].process.is_some();
        if self.removed.is_some() || witness == node || !witness_runs || self.fleet.below(3) > 0 {
            return;
        }
        self.tell(format!("{node:?} is removed, {witness:?} is told"));
        self.removed = Some(node);
        self.restarts.retain(|(_, other)| *other != node);
        let removal = self.fleet.removal_of(node);
        self.fleet
            .tell(witness, Input::Removal(removal.bytes().to_vec()));
    }

    /// Most edges are whole and good again; some stay cut. All nodes run, but for one that was removed while it was off.
    fn mend(&mut self) {
        for at in 0..self.fleet.network.edges.len() {
            let stays_cut = self.fleet.below(5) == 0;
            let edge = &mut self.fleet.network.edges[at];
            edge.loss_percent = 0;
            edge.busy = false;
            if !stays_cut || edge.cut != [true, true] {
                edge.cut = [false, false];
            }
        }
        for restart in &mut self.restarts {
            restart.0 = Instant(0);
        }
        self.restart_due();
        self.tell("mended");
    }

    fn settle(&mut self) -> Result<(), Violation> {
        self.fleet.run(QUIET);
        let deadline = self.fleet.now + PATIENCE;
        loop {
            match oracle::check(&self.fleet) {
                Ok(()) => break,
                Err(violation) if self.fleet.now >= deadline => return Err(violation),
                Err(_) => self.fleet.run(Micros::from_millis(500)),
            }
        }
        self.stays_quiet()
    }

    /// Nobody floods without news. A price that got better is news, once per link and end.
    fn stays_quiet(&mut self) -> Result<(), Violation> {
        let before = self.fleet.flooded;
        self.fleet.run(Micros::from_secs(10));
        let flooded = self.fleet.flooded.since(&before).datagrams;
        let edges = self.fleet.network.edges.len() as u64;
        match flooded <= 8 * edges * edges {
            true => Ok(()),
            false => Err(Violation(format!("{flooded} messages in 10 s of quiet"))),
        }
    }

    fn some_node(&mut self) -> NodeNumber {
        NodeNumber(self.fleet.below(self.fleet.nodes.len() as u64) as usize)
    }

    fn edge(&mut self, edge: EdgeNumber) -> &mut Edge {
        &mut self.fleet.network.edges[edge.0]
    }
}
