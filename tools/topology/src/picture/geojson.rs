//! GeoJSON (RFC 7946): nodes as points, links as lines. Nodes of one site stand on a small circle around it, so that
//! they can be told apart.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wattle_api::topology::EntityKey;
use wattle_model::{NodeId, NodeName};

use super::{PictureError, Place, Scene, key_of, state};

/// How far nodes of one site stand from it, in degrees: some hundred metres.
const RADIUS: f64 = 0.003;

pub(super) fn draw(scene: &Scene) -> Result<String, PictureError> {
    let positions = positions(scene)?;
    let mut features = Vec::new();
    for node in scene.graph.nodes() {
        let position = positions.get(&node.id);
        let geometry = position.map(|(x, y)| json!({ "type": "Point", "coordinates": [x, y] }));
        features.push(feature(
            &EntityKey::Node(node.id).to_string(),
            geometry.as_ref(),
            &json!({
                "kind": "node",
                "name": node.name,
                "site": node.site,
                "addresses": node.addresses,
                "reporting": node.reporting,
                "transit_cost_us": node.transit_cost_us,
                "change": scene.word(EntityKey::Node(node.id)),
            }),
        ));
    }
    for link in scene.graph.links() {
        let ends = positions.get(&link.from).zip(positions.get(&link.to));
        let geometry = ends.map(|(from, to)| {
            json!({ "type": "LineString", "coordinates": [[from.0, from.1], [to.0, to.1]] })
        });
        features.push(feature(
            &key_of(link).to_string(),
            geometry.as_ref(),
            &json!({
                "kind": "link",
                "from": scene.graph.name(link.from),
                "to": scene.graph.name(link.to),
                "carrier": link.carrier,
                "state": state(link),
                "cost_us": link.cost_us,
                "rtt_us": link.rtt_us,
                "loss_ppm": link.loss_ppm,
                "change": scene.word(key_of(link)),
            }),
        ));
    }
    let collection = json!({ "type": "FeatureCollection", "features": features });
    Ok(collection.to_string() + "\n")
}

/// A feature whose place is not known has no geometry.
fn feature(id: &str, geometry: Option<&Value>, properties: &Value) -> Value {
    json!({ "type": "Feature", "id": id, "geometry": geometry, "properties": properties })
}

fn positions(scene: &Scene) -> Result<BTreeMap<NodeId, (f64, f64)>, PictureError> {
    let mut sites: BTreeMap<&NodeName, Vec<NodeId>> = BTreeMap::new();
    for node in scene.graph.nodes() {
        if let Some(site) = &node.site {
            sites.entry(site).or_default().push(node.id);
        }
    }
    let mut positions = BTreeMap::new();
    for (site, nodes) in &sites {
        let Some(place) = scene.places.get(*site) else {
            continue;
        };
        check(site, place)?;
        for (at, node) in nodes.iter().enumerate() {
            positions.insert(*node, around(place, at, nodes.len()));
        }
    }
    if positions.is_empty() {
        let sites = sites.keys().map(ToString::to_string).collect();
        return Err(PictureError::NoPlaces { sites });
    }
    Ok(positions)
}

fn check(site: &NodeName, place: &Place) -> Result<(), PictureError> {
    let on_earth =
        (-90.0..=90.0).contains(&place.latitude) && (-180.0..=180.0).contains(&place.longitude);
    on_earth
        .then_some(())
        .ok_or_else(|| PictureError::BadPlace {
            site: site.to_string(),
        })
}

/// The coordinates of one of `count` nodes, longitude first.
fn around(place: &Place, at: usize, count: usize) -> (f64, f64) {
    if count == 1 {
        return (place.longitude, place.latitude);
    }
    let (sin, cos) = (at as f64 / count as f64 * std::f64::consts::TAU).sin_cos();
    let round = |degrees: f64| (degrees * 1e6).round() / 1e6;
    let longitude = (place.longitude + RADIUS * sin).clamp(-180.0, 180.0);
    let latitude = (place.latitude + RADIUS * cos).clamp(-90.0, 90.0);
    (round(longitude), round(latitude))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{places, scene};
    use super::*;

    #[test]
    fn nodes_of_known_sites_have_a_place_and_the_others_none() {
        let text = scene().with_places(places()).draw(Format::GeoJson).unwrap();
        let map: Value = serde_json::from_str(&text).unwrap();
        let geometry = |id: &str| {
            let features = map["features"].as_array().unwrap();
            let found = features.iter().find(|feature| feature["id"] == id).unwrap();
            found["geometry"].clone()
        };
        assert_eq!(
            geometry("node:0000000000000003"),
            json!({ "type": "Point", "coordinates": [4.9, 52.37] })
        );
        assert_eq!(geometry("node:0000000000000004"), Value::Null);
        assert_ne!(
            geometry("node:0000000000000001"),
            geometry("node:0000000000000002")
        );
        let line = geometry("link:0000000000000003>0000000000000001/udp4");
        assert_eq!(
            (&line["type"], &line["coordinates"][0]),
            (&json!("LineString"), &json!([4.9, 52.37]))
        );
    }

    #[test]
    fn without_coordinates_the_error_says_how_to_give_them() {
        let error = scene().draw(Format::GeoJson).unwrap_err().to_string();
        assert!(
            error.contains("the sites de, nl") && error.contains("[sites.NAME]"),
            "{error}"
        );
        let mut wrong = places();
        wrong.insert(
            "de".parse().unwrap(),
            Place {
                latitude: 91.0,
                longitude: 0.0,
            },
        );
        let error = scene()
            .with_places(wrong)
            .draw(Format::GeoJson)
            .unwrap_err();
        assert!(error.to_string().contains("site de: latitude"), "{error}");
    }
}
