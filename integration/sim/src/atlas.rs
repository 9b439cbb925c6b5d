//! Maps of networks that exist: node-link JSON as networkx writes it, with the length of every link.
//!
//! A few lie beside this crate; a folder of more is read when a test or a bench is given one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wattle_model::{Cost, Micros, NodeId};
use wattle_routing::BASE;
use wattle_routing::graph::Graph;

use crate::fleet::NodeNumber;
use crate::network::Edge;
use crate::topology::Plan;

/// Light in fibre, and cables that do not lie straight: 200 km a millisecond, half as far again.
const MICROS_PER_KM: f64 = 7.5;

/// One network.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its folder and name.
    pub name: String,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// Pairs of nodes and the time that light takes between them; every pair once.
    pub links: BTreeMap<(usize, usize), Micros>,
}

/// Many networks, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct Atlas {
    /// The networks.
    pub charts: Vec<Chart>,
}

/// Why a map could not be read.
#[derive(Debug)]
pub struct Unreadable {
    path: PathBuf,
    why: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}; a map is node-link JSON with `nodes[].id` and `edges[].{{source, target, dist}}`",
            self.path.display(),
            self.why
        )
    }
}

impl std::error::Error for Unreadable {}

impl Atlas {
    /// The maps that lie beside this crate.
    ///
    /// # Errors
    /// The first one that cannot be read.
    pub fn bundled() -> Result<Self, Unreadable> {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs"))
    }

    /// All maps in a folder and the folders in it.
    ///
    /// # Errors
    /// The first map that cannot be read, or that there is none.
    pub fn read(folder: &Path) -> Result<Self, Unreadable> {
        let mut paths = Vec::new();
        collect(folder, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(unreadable(folder, "there is no .json file in it"));
        }
        let charts = paths.iter().map(|path| Chart::read(path));
        Ok(Self {
            charts: charts.collect::<Result<_, _>>()?,
        })
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Unreadable> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    Ok(())
}

fn unreadable(path: &Path, why: &(impl ToString + ?Sized)) -> Unreadable {
    Unreadable {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// What a file says.
#[derive(Deserialize)]
struct File {
    nodes: Vec<FileNode>,
    edges: Vec<FileEdge>,
}

#[derive(Deserialize)]
struct FileNode {
    id: serde_json::Value,
    name: Option<String>,
}

#[derive(Deserialize)]
struct FileEdge {
    source: serde_json::Value,
    target: serde_json::Value,
    dist: f64,
}

impl Chart {
    /// Reads one map.
    ///
    /// # Errors
    /// The file cannot be read, or is no map.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        let file: File = serde_json::from_str(&text).map_err(|error| unreadable(path, &error))?;
        let chart = Self::of(name_of(path), &file);
        chart.map_err(|why| unreadable(path, &why))
    }

    fn of(name: String, file: &File) -> Result<Self, String> {
        let ids = file.nodes.iter().map(|node| node.id.to_string());
        let numbers: BTreeMap<String, usize> = ids.zip(0..).collect();
        let number = |id: &serde_json::Value| {
            let number = numbers.get(&id.to_string()).copied();
            number.ok_or_else(|| format!("an edge ends at {id}, which is no node"))
        };
        let mut links = BTreeMap::new();
        for edge in &file.edges {
            let (a, b) = (number(&edge.source)?, number(&edge.target)?);
            if !(edge.dist.is_finite() && edge.dist >= 0.0) {
                return Err(format!("a link of {} km", edge.dist));
            }
            if a != b {
                let span = Micros((edge.dist * MICROS_PER_KM) as u64);
                let link = links.entry((a.min(b), a.max(b))).or_insert(span);
                *link = span.min(*link);
            }
        }
        let nodes = file.nodes.iter();
        Ok(Self {
            name,
            nodes: nodes
                .map(|node| node.name.clone().unwrap_or_else(|| node.id.to_string()))
                .collect(),
            links,
        })
    }

    /// The network as routing sees it, nodes numbered from 0.
    pub fn graph(&self) -> Graph {
        let nodes = (0..self.nodes.len() as u64).map(|node| (NodeId(node), Cost(0)));
        let links = self.links.iter().map(|((a, b), span)| {
            let cost = BASE.0 + span.0;
            let ends = (NodeId(*a as u64), NodeId(*b as u64));
            (ends, Cost(cost))
        });
        Graph::new(&nodes.collect(), &links.collect())
    }

    /// The network as a plan for a fleet; a datagram takes at least 100 µs.
    pub fn plan(&self) -> Plan {
        let links = self.links.iter().map(|((a, b), span)| {
            let span = Micros(span.0.max(100));
            Edge::new(NodeNumber(*a), NodeNumber(*b), span)
        });
        Plan {
            names: self.nodes.clone(),
            edges: links.collect(),
        }
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{name}", folder.to_string_lossy()),
        None => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(text: &str) -> Result<Chart, String> {
        let file = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Chart::of("a chart".to_owned(), &file)
    }

    #[test]
    fn the_bundled_maps_are_connected_and_as_large_as_they_say() {
        let atlas = Atlas::bundled().unwrap();
        assert_eq!(atlas.charts.len(), 29);
        let abilene = &atlas.charts[0];
        assert_eq!(abilene.name, "sndlib/abilene");
        assert_eq!((abilene.nodes.len(), abilene.links.len()), (12, 15));
        assert_eq!(abilene.links[&(0, 1)], Micros(993));
        for chart in &atlas.charts {
            let graph = chart.graph();
            let tree = wattle_routing::spf::Tree::of(&graph, wattle_routing::graph::Vertex(0));
            let reached = graph.vertices().filter(|to| tree.cost(*to).is_finite());
            assert_eq!(reached.count(), chart.nodes.len(), "{}", chart.name);
        }
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused_with_the_reason() {
        for (text, word) in [
            (r#"{"nodes": []}"#, "edges"),
            (
                r#"{"nodes": [{"id": 0}], "edges": [{"source": 0, "target": 7, "dist": 1}]}"#,
                "7",
            ),
            (
                r#"{"nodes": [{"id": 0}, {"id": 1}], "edges": [{"source": 0, "target": 1, "dist": -1}]}"#,
                "-1 km",
            ),
            ("[]", "struct"),
        ] {
            let why = chart(text).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        let error = Atlas::read(Path::new("/nonexistent-atlas")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent-atlas"), "{error}");
    }
}
