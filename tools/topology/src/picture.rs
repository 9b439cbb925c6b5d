//! Draws a [`Graph`], or what became different in it, in the forms that people and other programs read. Pure.
//!
//! A [`Scene`] is what is drawn: the network at one moment, what to mark, and where the sites are. Each form has a file.

mod cypher;
mod document;
mod dot;
mod escape;
mod geojson;
mod graphml;
pub mod layout;
mod mermaid;
mod rfc8345;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wattle_api::topology::{EntityKey, LinkEntity};
use wattle_model::NodeName;

use crate::diff::{Diff, Fate};
use crate::graph::{Graph, is_usable};

pub use crate::picture::document::{DiffDocument, Document, GraphDocument};
pub use crate::picture::table::{aligned, matrix};

/// Name and version of the JSON document.
pub const SCHEMA: &str = "wattle.topology.graph/v1";

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned text.
    Table,
    /// One document of [`SCHEMA`], or of [`crate::DIFF_SCHEMA`].
    Json,
    /// Graphviz.
    Dot,
    /// Mermaid, which Markdown viewers draw.
    Mermaid,
    /// A picture on its own.
    Svg,
    /// GraphML, for Gephi, yEd and networkx.
    GraphMl,
    /// GeoJSON (RFC 7946), for maps.
    GeoJson,
    /// `ietf-network-topology` (RFC 8345) with the layer 3 attributes of RFC 8346, in JSON.
    Rfc8345,
    /// Cypher statements, for Neo4j and its like.
    Cypher,
}

/// The names of the formats.
pub const FORMATS: [(&str, Format); 9] = [
    ("table", Format::Table),
    ("json", Format::Json),
    ("dot", Format::Dot),
    ("mermaid", Format::Mermaid),
    ("svg", Format::Svg),
    ("graphml", Format::GraphMl),
    ("geojson", Format::GeoJson),
    ("rfc8345", Format::Rfc8345),
    ("cypher", Format::Cypher),
];

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = FORMATS
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, format)| *format);
        let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        found.ok_or_else(|| format!("`{text}` is no format: {}", names.join(", ")))
    }
}

/// Where a site is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Degrees north (WGS 84), from -90 to 90.
    pub latitude: f64,
    /// Degrees east (WGS 84), from -180 to 180.
    pub longitude: f64,
}

/// Where sites are, by name.
pub type Places = BTreeMap<NodeName, Place>;

/// Why a picture cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// A map of nodes of which nobody knows where they are.
    #[error(
        "no site's coordinates are known: the network has {}. Give them in a file with a table for each site, \
         `[sites.NAME]` with `latitude` and `longitude` in degrees",
        named(sites)
    )]
    NoPlaces {
        /// The sites that nodes name.
        sites: Vec<String>,
    },
    /// Coordinates that are not on Earth.
    #[error("site {site}: latitude is -90 to 90 and longitude -180 to 180, in degrees")]
    BadPlace {
        /// The site.
        site: String,
    },
}

fn named(sites: &[String]) -> String {
    if sites.is_empty() {
        return "no sites".to_owned();
    }
    format!("the sites {}", sites.join(", "))
}

/// What is drawn.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    graph: Graph,
    marks: BTreeMap<EntityKey, Fate>,
    diff: Option<Diff>,
    places: Places,
}

impl Scene {
    /// The network at one moment.
    pub fn of(graph: Graph) -> Self {
        Self {
            graph,
            ..Self::default()
        }
    }

    /// What became different: the later network, and in it what vanished, marked.
    pub fn of_diff(later: Graph, diff: Diff) -> Self {
        let mut graph = later;
        let (seq, ts) = (graph.seq(), graph.ts());
        for change in diff
            .changes
            .iter()
            .filter(|change| change.fate == Fate::Vanished)
        {
            graph.set(change.key, change.before.clone(), seq);
        }
        graph.date(seq, ts);
        Self {
            graph,
            marks: diff
                .changes
                .iter()
                .map(|change| (change.key, change.fate))
                .collect(),
            diff: Some(diff),
            places: Places::new(),
        }
    }

    /// Says where sites are.
    #[must_use]
    pub fn with_places(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// Draws it.
    pub fn draw(&self, format: Format) -> Result<String, PictureError> {
        Ok(match format {
            Format::Table => table::draw(self),
            Format::Json => json!(self.document()).to_string() + "\n",
            Format::Dot => dot::draw(self),
            Format::Mermaid => mermaid::draw(self),
            Format::Svg => svg::draw(self),
            Format::GraphMl => graphml::draw(self),
            Format::GeoJson => geojson::draw(self)?,
            Format::Rfc8345 => rfc8345::draw(self),
            Format::Cypher => cypher::draw(self),
        })
    }

    /// The graph, or what is different, as one JSON document.
    pub fn document(&self) -> Document<'_> {
        self.diff
            .as_ref()
            .map_or_else(|| Document::of(&self.graph), Document::of_diff)
    }

    fn fate(&self, key: EntityKey) -> Option<Fate> {
        self.marks.get(&key).copied()
    }

    /// The word for what became of an entity.
    fn word(&self, key: EntityKey) -> Option<&'static str> {
        self.fate(key).map(word)
    }
}

const fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Appeared => "appeared",
        Fate::Vanished => "vanished",
        Fate::Changed => "changed",
    }
}

const fn colour(fate: Fate) -> &'static str {
    match fate {
        Fate::Appeared => "#1a7f37",
        Fate::Vanished => "#cf222e",
        Fate::Changed => "#bc6c00",
    }
}

const fn key_of(link: &LinkEntity) -> EntityKey {
    EntityKey::Link(link.from, link.to, link.carrier)
}

fn label(link: &LinkEntity) -> String {
    match link.cost_us {
        Some(cost) => format!("{} {}", link.carrier, millis(cost.into())),
        None => format!("{} {}", link.carrier, state(link)),
    }
}

const fn state(link: &LinkEntity) -> &'static str {
    match (is_usable(link), link.cost_us) {
        (true, _) => "up",
        (false, Some(_)) => "one-sided",
        (false, None) => "down",
    }
}

fn millis(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1_000.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::diff::Differ;
    use crate::graph::tests::{at_site, event, graph, link, node, prefix};

    /// Four nodes in two sites, a link down, a prefix.
    pub(crate) fn scene() -> Scene {
        Scene::of(graph(&[
            at_site(node(1, "fra"), "de"),
            at_site(node(2, "ber"), "de"),
            at_site(node(3, "ams"), "nl"),
            node(4, "roam"),
            link(1, 2, Some(700)),
            link(2, 1, Some(900)),
            link(1, 3, Some(5_000)),
            link(3, 1, None),
            link(4, 1, Some(12_000)),
            link(1, 4, Some(12_000)),
            prefix("10.1.0.0/16", 3),
        ]))
    }

    /// The same, after `ams` and its links vanished, a node appeared and a price rose.
    pub(crate) fn changed() -> Scene {
        let mut differ = Differ::new(scene().graph);
        let steps = [
            (Some(link(1, 3, Some(5_000))), None),
            (Some(link(3, 1, None)), None),
            (Some(prefix("10.1.0.0/16", 3)), None),
            (Some(at_site(node(3, "ams"), "nl")), None),
            (None, Some(at_site(node(5, "osl"), "no"))),
            (Some(link(1, 2, Some(700))), Some(link(1, 2, Some(1_400)))),
        ];
        for (seq, (before, after)) in (12..).zip(steps) {
            differ.take(&event(seq, before, after));
        }
        let (_, later, diff) = differ.finish(None);
        Scene::of_diff(later, diff)
    }

    pub(crate) fn places() -> Places {
        let place = |name: &str, latitude, longitude| {
            let place = Place {
                latitude,
                longitude,
            };
            (name.parse().unwrap(), place)
        };
        [place("de", 50.11, 8.68), place("nl", 52.37, 4.9)].into()
    }

    #[test]
    fn every_format_draws_every_scene_and_the_empty_network_the_same_each_time() {
        for scene in [scene(), changed(), Scene::default()] {
            for (name, format) in FORMATS {
                assert_eq!(name.parse::<Format>(), Ok(format));
                let scene = scene.clone().with_places(places());
                match scene.draw(format) {
                    Ok(text) => {
                        assert!(text.ends_with('\n'), "{name}: {text}");
                        assert_eq!(scene.draw(format), Ok(text));
                    }
                    Err(error) => {
                        assert!(format == Format::GeoJson && scene.graph.nodes().count() == 0);
                        assert!(error.to_string().contains("no sites"), "{error}");
                    }
                }
            }
        }
        assert!(
            "png"
                .parse::<Format>()
                .unwrap_err()
                .contains("mermaid, svg")
        );
    }

    #[test]
    fn json_names_its_schema_that_of_a_diff_too() {
        let document = json!(scene().document());
        assert_eq!(document["schema"], SCHEMA);
        assert_eq!(document["links"].as_array().map(Vec::len), Some(6));
        let document = json!(changed().document());
        assert_eq!(document["schema"], crate::diff::SCHEMA);
        assert_eq!(document["changes"].as_array().map(Vec::len), Some(6));
        let back: Diff = serde_json::from_value(document).unwrap();
        assert_eq!(back.changes.len(), 6);
    }
}
