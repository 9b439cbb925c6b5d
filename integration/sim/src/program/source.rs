//! Where a network comes from: a rule, a file of lines, a map of a network that exists.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use wattle_model::Micros;
use wattle_sim::{Atlas, Chart, EdgeNumber, Fleet, Plan};

/// One way: the round trip takes 10 ms.
const DELAY: Micros = Micros::from_millis(5);

/// What a fleet is made of.
pub(crate) enum Network {
    /// So many nodes that choose their neighbours themselves.
    Sparse(usize),
    /// These nodes and links.
    Planned(Plan),
}

impl Network {
    /// Its nodes, which are off.
    pub(crate) fn fleet(&self, seed: u64) -> Fleet {
        match self {
            Self::Sparse(nodes) => Fleet::sparse(seed, *nodes, |_| DELAY),
            Self::Planned(plan) => busy(plan, plan.fleet(seed)),
        }
    }
}

/// Sets packets going where the plan has them.
fn busy(plan: &Plan, mut fleet: Fleet) -> Fleet {
    let edges = plan.edges.iter().enumerate();
    for (at, _) in edges.filter(|(_, edge)| edge.busy) {
        fleet.set_busy(EdgeNumber(at), true);
    }
    fleet
}

/// A large network by the rule for those.
pub(crate) fn sparse(nodes: &str) -> Result<Network> {
    let nodes: usize = nodes.parse().context("NODES is no number")?;
    ensure!(
        nodes > 32,
        "up to 32 nodes everybody is everybody's neighbour: a large fleet has more"
    );
    Ok(Network::Sparse(nodes))
}

/// A network in words, one line a link.
pub(crate) fn topology(file: &str) -> Result<Network> {
    let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    let plan = Plan::parse(&text).with_context(|| file.to_owned())?;
    planned(file, plan)
}

/// A public network, by its name or its file.
pub(crate) fn map(name: &str) -> Result<Network> {
    let chart = match Path::new(name) {
        path if path.is_file() => Chart::read(path)?,
        _ => bundled(name)?,
    };
    planned(name, chart.plan())
}

fn bundled(name: &str) -> Result<Chart> {
    let charts = Atlas::bundled()?.charts;
    let is_it = |chart: &&Chart| {
        let last = chart.name.rsplit('/').next();
        [Some(chart.name.as_str()), last].contains(&Some(name))
    };
    if let Some(chart) = charts.iter().find(is_it) {
        return Ok(chart.clone());
    }
    let names: Vec<_> = charts.iter().map(|chart| chart.name.as_str()).collect();
    bail!(
        "{name} is no file and no map; maps are: {}",
        names.join(", ")
    )
}

fn planned(name: &str, plan: Plan) -> Result<Network> {
    ensure!(!plan.edges.is_empty(), "{name}: there is no link in it");
    if let Some(lonely) = plan.unreached() {
        bail!("{name}: no links lead from {} to {lonely}", plan.names[0]);
    }
    Ok(Network::Planned(plan))
}
