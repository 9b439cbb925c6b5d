//! Places for the nodes of a graph in a picture: springs for small graphs, a circle for large ones. The same graph
//! always gets the same places.

/// The largest graph that springs are tried on: their work grows with the square of the nodes.
const SPRINGS: usize = 400;

/// Places for `count` nodes, joined by `edges` (pairs of positions), inside a square of this size with this margin.
/// Nodes that follow each other stand near each other where nothing else pulls them.
pub fn places(count: usize, edges: &[(usize, usize)], size: f64, margin: f64) -> Vec<(f64, f64)> {
    let places = if count <= SPRINGS {
        springs(count, edges)
    } else {
        circle(count)
    };
    fit(&places, size, margin)
}

fn circle(count: usize) -> Vec<(f64, f64)> {
    (0..count)
        .map(|at| (at as f64 / count as f64 * std::f64::consts::TAU).sin_cos())
        .collect()
}

/// Fruchterman and Reingold's springs from a circle, cooled over a fixed number of steps.
fn springs(count: usize, edges: &[(usize, usize)]) -> Vec<(f64, f64)> {
    const STEPS: u32 = 200;
    let ideal = (1.0 / count.max(1) as f64).sqrt();
    let mut places = circle(count);
    for step in 0..STEPS {
        let heat = 0.1 * f64::from(STEPS - step) / f64::from(STEPS);
        let mut forces = vec![(0.0, 0.0); count];
        for a in 0..count {
            for b in (0..count).filter(|b| *b != a) {
                push(&mut forces[a], places[b], places[a], |length| {
                    ideal * ideal / length
                });
            }
        }
        for (a, b) in edges {
            for (end, other) in [(*a, *b), (*b, *a)] {
                push(&mut forces[end], places[end], places[other], |length| {
                    length * length / ideal
                });
            }
        }
        for (place, (dx, dy)) in places.iter_mut().zip(forces) {
            let length = f64::hypot(dx, dy).max(1e-9);
            let step = length.min(heat) / length;
            *place = (place.0 + dx * step, place.1 + dy * step);
        }
    }
    places
}

fn push(force: &mut (f64, f64), from: (f64, f64), to: (f64, f64), strength: impl Fn(f64) -> f64) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = f64::hypot(dx, dy).max(1e-3);
    let strength = strength(length) / length;
    *force = (force.0 + dx * strength, force.1 + dy * strength);
}

fn fit(places: &[(f64, f64)], size: f64, margin: f64) -> Vec<(f64, f64)> {
    let scale = |pick: fn(&(f64, f64)) -> f64| {
        let low = places.iter().map(pick).fold(f64::INFINITY, f64::min);
        let high = places.iter().map(pick).fold(f64::NEG_INFINITY, f64::max);
        let span = high - low;
        move |value: f64| match span > 1e-6 {
            true => margin + (value - low) / span * (size - 2.0 * margin),
            false => size / 2.0,
        }
    };
    let (x, y) = (scale(|place| place.0), scale(|place| place.1));
    places
        .iter()
        .map(|place| (x(place.0), y(place.1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_stand_inside_the_frame_and_apart_in_small_and_large_graphs() {
        for count in [0, 1, 2, 3, 30, 500] {
            let edges: Vec<_> = (1..count).map(|at| (at - 1, at)).collect();
            let size = 200.0 + 40.0 * (count as f64);
            let found = places(count, &edges, size, 50.0);
            assert_eq!(found, places(count, &edges, size, 50.0));
            assert_eq!(found.len(), count);
            for (at, (x, y)) in found.iter().enumerate() {
                assert!(
                    (0.0..=size).contains(x) && (0.0..=size).contains(y),
                    "{x} {y}"
                );
                let apart = |(a, b): &(f64, f64)| f64::hypot(x - a, y - b) > 10.0;
                assert!(found[..at].iter().all(apart), "node {at} of {count}");
            }
        }
    }

    #[test]
    fn neighbours_are_nearer_than_strangers() {
        // Two triangles, joined by nothing.
        let edges = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)];
        let found = places(6, &edges, 600.0, 50.0);
        let length =
            |a: usize, b: usize| f64::hypot(found[a].0 - found[b].0, found[a].1 - found[b].1);
        assert!(length(0, 1) < length(2, 3) && length(4, 5) < length(5, 0));
    }
}
