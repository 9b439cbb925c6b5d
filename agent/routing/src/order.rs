//! In which order nodes take to other ways, so that no packet goes in circles meanwhile (RFC 6976).
//!
//! After bad news those who are farthest from it go first: nobody leaves a way while others still send packets to it on that way.
//! What fails is gone around by the nodes beside it in the meantime, over their backups. After good news those nearest go
//! first. Every node computes how long it waits by itself; a node that nobody depends on does not wait.

use wattle_model::{Cost, Micros};

use crate::graph::{Change, Graph, Vertex};
use crate::multipath;
use crate::spf::Tree;

/// Between a node and the one that waits for it: bad news is computed 20 ms after it came at the latest, and read in time.
const STEP: Micros = Micros::from_millis(30);

/// How long `node` waits before it goes from the routes of one graph to those of the next, that `changes` made of it.
pub fn delay(before: &Graph, after: &Graph, node: Vertex, changes: &[Change]) -> Micros {
    let delays = changes.iter().map(|change| match *change {
        Change::Link {
            a,
            b,
            before: old,
            after: new,
        } => {
            let (graph, news) = match new > old {
                true => (before, News::Bad),
                false => (after, News::Good),
            };
            let one = for_link(graph, (a, b), news, node);
            one.max(for_link(graph, (b, a), news, node))
        }
        Change::Transit {
            at,
            before: old,
            after: new,
        } => match new > old {
            true => Waiting::for_node(before, at, News::Bad).of(node),
            false => Waiting::for_node(after, at, News::Good).of(node),
        },
    });
    delays.max().unwrap_or(Micros(0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Bad,
    Good,
}

/// How long `node` waits with those who may reach `b` over the link from `a`.
fn for_link(graph: &Graph, (a, b): (Vertex, Vertex), news: News, node: Vertex) -> Micros {
    let tree = Tree::of(graph, b);
    let slack = slack(graph, &tree);
    let mut concerned = vec![false; graph.len()];
    concerned[a.0 as usize] = true;
    // Whoever may send to one of them is one of them: what each hop may cost more adds up.
    for sender in nearest_first(graph, &tree) {
        let mut relays = graph.edges(sender).iter();
        let sends = relays.any(|edge| {
            concerned[edge.to.0 as usize]
                && may_send(graph, &tree, slack, sender, edge.to, edge.cost)
        });
        concerned[sender.0 as usize] |= sends;
    }
    // Most nodes of a large network are not.
    if !concerned[node.0 as usize] {
        return Micros(0);
    }
    let is_concerned = |vertex: Vertex| concerned[vertex.0 as usize];
    Waiting::towards(graph, &tree, slack, news, is_concerned).of(node)
}

/// How long each node waits, if it is concerned at all.
struct Waiting(Vec<Option<Micros>>);

impl Waiting {
    /// For those who may pass through a node: everybody.
    fn for_node(graph: &Graph, at: Vertex, news: News) -> Self {
        let tree = Tree::of(graph, at);
        let slack = slack(graph, &tree);
        Self::towards(graph, &tree, slack, news, |_| true)
    }

    fn towards(
        graph: &Graph,
        tree: &Tree,
        slack: Micros,
        news: News,
        concerned: impl Fn(Vertex) -> bool,
    ) -> Self {
        let mut order = nearest_first(graph, tree);
        order.retain(|vertex| concerned(*vertex));
        if news == News::Bad {
            order.reverse();
        }
        let mut waiting = Self(vec![None; graph.len()]);
        for vertex in &order {
            waiting.0[vertex.0 as usize] = Some(Micros(0));
        }
        for first in &order {
            for edge in graph.edges(*first) {
                let (sender, relay) = match news {
                    News::Bad => (*first, edge.to),
                    News::Good => (edge.to, *first),
                };
                if !may_send(graph, tree, slack, sender, relay, edge.cost) {
                    continue;
                }
                // Bad news comes to the relay first, then to the sender, whom it waits for.
                let on_the_way = match news {
                    News::Bad => edge.cost.micros(),
                    News::Good => 0,
                };
                let until = waiting.of(*first).0 + STEP.0 + on_the_way;
                if let Some(second) = &mut waiting.0[edge.to.0 as usize] {
                    *second = Micros(until).max(*second);
                }
            }
        }
        waiting
    }

    fn of(&self, node: Vertex) -> Micros {
        self.0[node.0 as usize].unwrap_or(Micros(0))
    }
}

/// All who reach the root, without it.
fn nearest_first(graph: &Graph, tree: &Tree) -> Vec<Vertex> {
    let is_there = |vertex: &Vertex| *vertex != tree.root() && tree.cost(*vertex).is_finite();
    let mut order: Vec<Vertex> = graph.vertices().filter(is_there).collect();
    order.sort_unstable_by_key(|vertex| tree.cost(*vertex));
    order
}

/// What a way may cost more than the best and still be shared or held, in a network of this size.
fn slack(graph: &Graph, tree: &Tree) -> Micros {
    let costs = graph.vertices().map(|vertex| tree.cost(vertex));
    let times = costs.filter(|cost| cost.is_finite()).map(Cost::micros);
    multipath::slack(Micros(times.max().unwrap_or_default()))
}

/// Whether `sender` may pass packets for the root, or for what is behind it, to `relay`.
fn may_send(
    graph: &Graph,
    tree: &Tree,
    slack: Micros,
    sender: Vertex,
    relay: Vertex,
    link: Cost,
) -> bool {
    if relay == tree.root() || tree.cost(relay) >= tree.cost(sender) {
        return false;
    }
    let way = link.plus(graph.transit(relay)).plus(tree.cost(relay));
    way.is_finite() && way <= tree.cost(sender).plus(Cost(slack.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wattle_model::NodeId;

    use super::*;

    /// 0 - 1 - 2 - 3 - 4 - 0.
    fn ring() -> Graph {
        let nodes = (0..5).map(|node| (NodeId(node), Cost(0))).collect();
        let links: BTreeMap<_, _> = (0..5)
            .map(|node| ((NodeId(node), NodeId((node + 1) % 5)), Cost(1_000)))
            .collect();
        Graph::new(&nodes, &links)
    }

    fn delays(before: &Graph, after: &Graph, change: Change) -> Vec<u64> {
        let vertices = before.vertices();
        vertices
            .map(|node| delay(before, after, node, &[change]).as_millis())
            .collect()
    }

    #[test]
    fn after_a_failure_the_farthest_go_first_and_the_nodes_beside_it_last() {
        let before = ring();
        let mut after = before.clone();
        let change = after
            .set_cost(Vertex(0), Vertex(1), Cost::INFINITE)
            .unwrap();
        // 4 reaches 1 over 0, and 2 reaches 0 over 1; 3 has shorter ways to both.
        assert_eq!(delays(&before, &after, change), [31, 31, 0, 0, 0]);
    }

    #[test]
    fn after_a_repair_the_nodes_beside_it_go_first() {
        let whole = ring();
        let mut broken = whole.clone();
        broken
            .set_cost(Vertex(0), Vertex(1), Cost::INFINITE)
            .unwrap();
        let mut after = broken.clone();
        let change = after.set_cost(Vertex(0), Vertex(1), Cost(1_000)).unwrap();
        assert_eq!(delays(&broken, &after, change), [0, 0, 30, 0, 30]);
    }
}
