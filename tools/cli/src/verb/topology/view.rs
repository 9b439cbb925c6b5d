//! `show`, `at`, `diff` and `path`: the network at one moment, or at two.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::settings::{Complaint, text_of};
use wattle_api::topology::NodeEntity;
use wattle_model::NodeName;
use wattle_topology::{Differ, Document, Format, Graph, PictureError, Place, Places, Route, Scene};

use super::past::{Past, moment, span};
use crate::args::{MapArgs, StreamArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{micros, percent};
use crate::output::Output;
use crate::table::{Columns, Side};
use crate::verb::answers;

pub(super) async fn show(source: &StreamArgs, map: &MapArgs, output: &mut Output) -> Outcome {
    let graph = Past::open(source).await?.now().await?;
    draw(Scene::of(graph), map, output)
}

pub(super) async fn at(
    when: &str,
    source: &StreamArgs,
    map: &MapArgs,
    output: &mut Output,
) -> Outcome {
    let moment = moment(when)?;
    let graph = Past::open(source).await?.at(moment).await?;
    draw(Scene::of(graph), map, output)
}

pub(super) async fn diff(
    from: &str,
    to: &str,
    source: &StreamArgs,
    map: &MapArgs,
    output: &mut Output,
) -> Outcome {
    let (from, to) = span((from, to))?;
    let mut past = Past::open(source).await?;
    let graph = past.at(from).await?;
    let mut events = past.events(&graph, from).await?;
    let mut differ = Differ::new(graph);
    while let Some(event) = events.next_until(to).await? {
        differ.take(&event);
    }
    let (_, later, diff) = differ.finish(to.time());
    draw(Scene::of_diff(later, diff), map, output)
}

fn draw(scene: Scene, map: &MapArgs, output: &mut Output) -> Outcome {
    let scene = match &map.sites {
        Some(file) => scene.with_places(places(file)?),
        None => scene,
    };
    if map.format == Format::Json {
        output.switch_to_json();
    }
    if output.is_json() {
        return match scene.document() {
            Document::Graph(graph) => output.answer(answers::TOPOLOGY, &graph, |_| String::new()),
            Document::Diff(diff) => output.answer(answers::TOPOLOGY_DIFF, &diff, |_| String::new()),
        };
    }
    output.text(&scene.draw(map.format).map_err(undrawable)?)
}

fn undrawable(error: PictureError) -> Failure {
    let next = match error {
        PictureError::NoPlaces { .. } => {
            "wattle topology show --format geojson --sites FILE, with latitude and longitude for each site in it"
        }
        PictureError::BadPlace { .. } => "correct the file that --sites names",
    };
    Failure::new(Exit::Usage, "the map cannot be drawn", error, next)
}

/// The coordinates of sites, from a file.
fn places(path: &Path) -> Outcome<Places> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        sites: BTreeMap<NodeName, Place>,
    }
    let next = "write a table [sites.NAME] with latitude and longitude in degrees for each site";
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::file(format!("cannot read {}", path.display()), &error, next))?;
    let refused = |complaint: Complaint| {
        let Complaint {
            line,
            column,
            message,
            ..
        } = complaint;
        let why = format!("{}:{line}:{column}: {message}", path.display());
        Failure::new(Exit::Usage, "the coordinates cannot be read", why, next)
    };
    let text = text_of(&bytes).map_err(refused)?;
    let file: File =
        toml::from_str(text).map_err(|error| refused(Complaint::of_toml(text, &error)))?;
    Ok(file.sites)
}

/// A way, as programs read it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Way {
    /// The newest event of the topology that it was computed over.
    seq: u64,
    /// The moment of that topology.
    at: Option<Timestamp>,
    #[serde(flatten)]
    route: Route,
}

pub(super) async fn path(
    (from, to): (&str, &str),
    when: &str,
    source: &StreamArgs,
    output: &mut Output,
) -> Outcome {
    let mut past = Past::open(source).await?;
    let graph = if when == "now" {
        past.now().await?
    } else {
        past.at(moment(when)?).await?
    };
    let (from, to) = (node(&graph, from)?, node(&graph, to)?);
    let Some(route) = Route::shortest(&graph, from.id, to.id) else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no way from {} to {}", from.name, to.name),
            format!(
                "no chain of links that both ends report, over nodes that carry transit, joins them, as of event {}",
                graph.seq()
            ),
            "wattle topology show lists the links and their states",
        ));
    };
    let answer = Way {
        seq: graph.seq(),
        at: graph.ts(),
        route,
    };
    let coloured = output.is_coloured();
    output.answer(answers::TOPOLOGY_PATH, &answer, |answer| {
        hops(answer, from.name.as_str(), coloured)
    })
}

fn hops(answer: &Way, from: &str, coloured: bool) -> String {
    let mut table = Columns::new(
        coloured,
        &[
            ("HOP", Side::Right),
            ("NODE", Side::Left),
            ("CARRIER", Side::Left),
            ("LINK", Side::Right),
            ("TRANSIT", Side::Right),
            ("SUM", Side::Right),
            ("RTT", Side::Right),
            ("LOSS", Side::Right),
        ],
    );
    let empty = |count| vec![String::new(); count];
    table.row(
        [vec!["0".to_owned(), from.to_owned()], empty(6)].concat(),
        None,
    );
    let mut sum = 0;
    for (at, hop) in (1..).zip(&answer.route.hops) {
        sum += hop.cost_us + hop.transit_us;
        let cells = [
            format!("{at}"),
            hop.to_name.clone(),
            hop.carrier.to_string(),
            micros(hop.cost_us),
            micros(hop.transit_us),
            micros(sum),
            micros(hop.rtt_us),
            percent(hop.loss_ppm),
        ];
        table.row(cells.into(), None);
    }
    let at = answer.at.map(|at| format!(", {at}")).unwrap_or_default();
    let total = micros(answer.route.cost_us);
    format!(
        "{}\ncost {total}, as of event {}{at}\n",
        table.finish(),
        answer.seq
    )
}

/// The node of this name, id or address; for an address behind a node, the one with the longest prefix.
fn node<'a>(graph: &'a Graph, named: &str) -> Outcome<&'a NodeEntity> {
    let by_address = |address: IpAddr| {
        let own = graph.nodes().find(|node| node.addresses.contains(&address));
        let around = graph
            .prefixes()
            .filter(|prefix| prefix.prefix.contains(address));
        let longest = around.max_by_key(|prefix| prefix.prefix.length());
        own.or_else(|| graph.node(longest?.origin))
    };
    let found = graph.find(named);
    let found = found.or_else(|| by_address(named.parse().ok()?));
    found.ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("there is no node {named}"),
            format!(
                "the topology has none of that name, id or address, as of event {}",
                graph.seq()
            ),
            "wattle topology show lists all nodes",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_read_and_mistakes_have_their_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("sites.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            places(&path)
        };
        let found = read("[sites.fra1]\nlatitude = 50.11\nlongitude = 8.68\n").unwrap();
        let site: NodeName = "fra1".parse().unwrap();
        assert!((found[&site].latitude - 50.11).abs() < 1e-9);
        for (text, words) in [
            (
                "[sites.fra1]\nlat = 50.11\n",
                "sites.toml:2:1: unknown field `lat`",
            ),
            (
                "[sites.Fra]\nlatitude = 1\nlongitude = 2",
                "a node name has only",
            ),
            ("", "missing field `sites`"),
        ] {
            let failure = read(text).unwrap_err();
            assert!(failure.why.contains(words), "{}", failure.why);
            assert_eq!(failure.exit, Exit::Usage);
        }
        let missing = places(&home.path().join("none.toml")).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
    }
}
