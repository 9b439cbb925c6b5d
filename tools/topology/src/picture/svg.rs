//! A picture on its own: nodes coloured by site, the two directions of a link as one line, a legend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use wattle_api::topology::{EntityKey, LinkEntity, NodeEntity};
use wattle_model::{Carrier, NodeName};

use super::{Scene, colour, escape, key_of, layout, millis};
use crate::diff::Fate;
use crate::graph::is_usable;

const MARGIN: f64 = 70.0;
const RADIUS: f64 = 22.0;

/// Above the picture: the title.
const HEAD: f64 = 40.0;

/// Lines whose prices can still be read.
const LABELS: usize = 60;

/// Lines that can all have a label. Of more, those that cannot be used are only dashed.
const FEW: usize = 20;

/// A line that is neither good news nor bad.
const QUIET: &str = "#667";

/// Fills that can be told apart, and read under black text.
const SITES: [&str; 8] = [
    "#cfe8ff", "#ffe0b8", "#d3f2cf", "#f3d3f5", "#fff2b0", "#d9dcff", "#ffd5d5", "#cdeeea",
];

/// A link of two nodes, as its ends report it.
struct Line<'a> {
    ends: (usize, usize),
    carrier: Carrier,
    directions: Vec<&'a LinkEntity>,
}

pub(super) fn draw(scene: &Scene) -> String {
    let nodes = by_site(scene);
    let lines = lines(scene, &nodes);
    let pairs: BTreeSet<(usize, usize)> = lines.iter().map(|line| line.ends).collect();
    let pairs: Vec<_> = pairs.into_iter().collect();
    let size = (240.0 * (nodes.len().max(1) as f64).sqrt()).clamp(480.0, 4_000.0);
    let places = layout::places(nodes.len(), &pairs, size, MARGIN);
    let sites: BTreeSet<&NodeName> = nodes.iter().filter_map(|node| node.site.as_ref()).collect();
    let sites: Vec<_> = sites.into_iter().collect();
    let legend = legend(scene, &sites, size);
    let (width, height) = (size, HEAD + size + legend.height);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"26\" font-size=\"15\">{}</text>\n\
         <g transform=\"translate(0 {HEAD})\">\n",
        width / 2.0,
        escape::xml(&title(scene)),
    );
    for line in &lines {
        let labelled = lines.len() <= FEW || (lines.len() <= LABELS && line.is_usable());
        text += &draw_line(scene, line, &places, labelled);
    }
    for (node, place) in nodes.iter().zip(&places) {
        text += &draw_node(scene, node, *place, &sites);
    }
    let _ = writeln!(
        text,
        "</g>\n<g transform=\"translate(0 {})\" text-anchor=\"start\">\n{}</g>",
        HEAD + size,
        legend.text
    );
    text + "</svg>\n"
}

/// Nodes of one site stand together where the springs begin.
fn by_site(scene: &Scene) -> Vec<&NodeEntity> {
    let mut nodes: Vec<_> = scene.graph.nodes().collect();
    nodes.sort_by_key(|node| (&node.site, node.id));
    nodes
}

fn lines<'a>(scene: &'a Scene, nodes: &[&NodeEntity]) -> Vec<Line<'a>> {
    let place: BTreeMap<_, usize> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.id, at))
        .collect();
    let mut lines: BTreeMap<_, Vec<&LinkEntity>> = BTreeMap::new();
    for link in scene.graph.links() {
        let (Some(&from), Some(&to)) = (place.get(&link.from), place.get(&link.to)) else {
            continue;
        };
        let ends = (from.min(to), from.max(to));
        lines.entry((ends, link.carrier)).or_default().push(link);
    }
    let lines = lines.into_iter();
    lines
        .map(|((ends, carrier), directions)| Line {
            ends,
            carrier,
            directions,
        })
        .collect()
}

impl Line<'_> {
    fn is_usable(&self) -> bool {
        self.directions.iter().any(|link| is_usable(link))
    }

    /// What became of it: of its directions, the most that happened.
    fn fate(&self, scene: &Scene) -> Option<Fate> {
        let fates = self
            .directions
            .iter()
            .filter_map(|link| scene.fate(key_of(link)));
        fates.min()
    }

    /// Carrier and price, of the worse direction.
    fn label(&self) -> String {
        let cost = self.directions.iter().filter_map(|link| link.cost_us).max();
        match cost {
            Some(cost) if self.is_usable() => format!("{} {}", self.carrier, millis(cost.into())),
            Some(_) => format!("{} one-sided", self.carrier),
            None => format!("{} down", self.carrier),
        }
    }
}

/// Links of two nodes over several carriers bend away from each other.
fn draw_line(scene: &Scene, line: &Line<'_>, places: &[(f64, f64)], labelled: bool) -> String {
    let ((x1, y1), (x2, y2)) = (places[line.ends.0], places[line.ends.1]);
    let fate = line.fate(scene);
    let stroke = match fate {
        Some(fate) => colour(fate),
        // Among changes, red means that something vanished.
        None if scene.diff.is_some() => "#99a",
        None if line.is_usable() => QUIET,
        None => "#cf222e",
    };
    let gone = fate == Some(Fate::Vanished) || !line.is_usable();
    let dash = if gone {
        " stroke-dasharray=\"5 4\""
    } else {
        ""
    };
    let width = if fate.is_some() { 2.5 } else { 1.5 };
    let length = f64::hypot(x2 - x1, y2 - y1).max(1.0);
    let bend = match line.carrier {
        Carrier::Udp4 => 0.0,
        Carrier::Udp6 => 26.0,
        Carrier::Quic => -26.0,
    };
    let (mx, my) = (
        f64::midpoint(x1, x2) - (y2 - y1) / length * bend,
        f64::midpoint(y1, y2) + (x2 - x1) / length * bend,
    );
    let mut text = format!(
        "<path d=\"M{x1:.1} {y1:.1} Q{mx:.1} {my:.1} {x2:.1} {y2:.1}\" fill=\"none\" stroke=\"{stroke}\" \
         stroke-width=\"{width}\"{dash}/>\n"
    );
    if labelled {
        let (lx, ly) = (on_curve(x1, mx, x2), on_curve(y1, my, y2) - 4.0);
        let _ = writeln!(
            text,
            "<text x=\"{lx:.1}\" y=\"{ly:.1}\" font-size=\"11\" fill=\"{stroke}\" stroke=\"white\" stroke-width=\"3\" \
             paint-order=\"stroke\">{}</text>",
            escape::xml(&line.label())
        );
    }
    text
}

/// A point of a quadratic curve nearer to its beginning than to its end: in the middle of the picture lines cross.
fn on_curve(from: f64, bend: f64, to: f64) -> f64 {
    const PART: f64 = 0.4;
    let rest = 1.0 - PART;
    rest * rest * from + 2.0 * rest * PART * bend + PART * PART * to
}

fn draw_node(scene: &Scene, node: &NodeEntity, (x, y): (f64, f64), sites: &[&NodeName]) -> String {
    let fate = scene.fate(EntityKey::Node(node.id));
    let stroke = match fate {
        Some(fate) => colour(fate),
        None if node.reporting => "#446",
        None => "#cf222e",
    };
    let gone = fate == Some(Fate::Vanished) || !node.reporting;
    let dash = if gone {
        " stroke-dasharray=\"4 3\""
    } else {
        ""
    };
    let width = if fate.is_some() { 3 } else { 1 };
    let fill = fill(node.site.as_ref(), sites);
    let name = escape::xml(node.name.as_str());
    // A name that does not fit stands below its circle.
    let (below, halo) = if node.name.as_str().len() <= 6 {
        (4.0, fill)
    } else {
        (RADIUS + 14.0, "white")
    };
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"{width}\"{dash}/>\n\
         <text x=\"{x:.1}\" y=\"{:.1}\" stroke=\"{halo}\" stroke-width=\"3\" paint-order=\"stroke\">{name}</text>\n",
        y + below
    )
}

fn fill(site: Option<&NodeName>, sites: &[&NodeName]) -> &'static str {
    let at = site.and_then(|site| sites.iter().position(|known| *known == site));
    at.map_or("#eee", |at| SITES[at % SITES.len()])
}

fn title(scene: &Scene) -> String {
    match &scene.diff {
        Some(diff) => match (diff.from, diff.to) {
            (Some(from), Some(to)) => format!("{from} to {to}"),
            (None, _) | (_, None) => format!("event {} to {}", diff.from_seq, diff.to_seq),
        },
        None => match scene.graph.ts() {
            Some(ts) => format!("{ts}, event {}", scene.graph.seq()),
            None => format!("event {}", scene.graph.seq()),
        },
    }
}

struct Legend {
    text: String,
    height: f64,
}

/// What colours and dashes mean, row by row.
fn legend(scene: &Scene, sites: &[&NodeName], width: f64) -> Legend {
    const CELL: f64 = 120.0;
    const ROW: f64 = 22.0;
    let mut cells: Vec<(String, String)> = Vec::new();
    for site in sites {
        let fill = fill(Some(*site), sites);
        cells.push((
            format!("<circle cx=\"10\" cy=\"10\" r=\"7\" fill=\"{fill}\" stroke=\"#446\"/>"),
            escape::xml(site.as_str()),
        ));
    }
    let mut stroke = |colour: &str, dash: &str, word: &str| {
        cells.push((
            format!("<path d=\"M2 10H18\" stroke=\"{colour}\" stroke-width=\"2.5\"{dash}/>"),
            word.to_owned(),
        ));
    };
    let dashed = " stroke-dasharray=\"5 4\"";
    if scene.diff.is_some() {
        stroke(colour(Fate::Appeared), "", "appeared");
        stroke(colour(Fate::Vanished), dashed, "vanished");
        stroke(colour(Fate::Changed), "", "changed");
    } else {
        stroke(QUIET, "", "can be used");
        stroke("#cf222e", dashed, "cannot be used");
    }
    let columns = ((width - 40.0) / CELL).max(1.0) as usize;
    let mut text = String::new();
    for (at, (mark, word)) in cells.iter().enumerate() {
        let (x, y) = (
            20.0 + (at % columns) as f64 * CELL,
            (at / columns) as f64 * ROW,
        );
        let _ = writeln!(
            text,
            "<g transform=\"translate({x} {y})\">{mark}<text x=\"24\" y=\"14\">{word}</text></g>"
        );
    }
    Legend {
        text,
        height: cells.len().div_ceil(columns) as f64 * ROW + 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{changed, scene};
    use crate::graph::tests::{graph, node};

    #[test]
    fn both_directions_are_one_line_and_what_changed_is_coloured() {
        let picture = scene().draw(Format::Svg).unwrap();
        assert_eq!(picture.matches("<circle cx").count(), 4 + 2);
        assert_eq!(picture.matches("<path d=\"M").count(), 3 + 2);
        assert!(picture.contains(">udp4 0.90 ms</text>"), "{picture}");
        let picture = changed().draw(Format::Svg).unwrap();
        for word in [
            "appeared", "vanished", "changed", "#1a7f37", "#cf222e", "#bc6c00",
        ] {
            assert!(picture.contains(word), "{word}");
        }
    }

    #[test]
    fn a_large_network_is_a_picture_too_without_prices() {
        let nodes: Vec<_> = (1..=450).map(|id| node(id, &format!("n{id}"))).collect();
        let picture = super::super::Scene::of(graph(&nodes))
            .draw(Format::Svg)
            .unwrap();
        assert_eq!(picture.matches("<circle cx").count(), 450);
    }
}
