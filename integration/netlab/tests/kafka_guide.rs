//! Kafka and the coordinator tell the same, other people's parsers read the pictures, and the consumers' guide does what
//! it says. `sudo tools/test kafka` runs it; it needs `WATTLE_KAFKA_LIBS`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod stumbling;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use wattle_netlab::answer::{self, entities, json_lines, output, wattle_topology};
use wattle_netlab::guide::tested_blocks;
use wattle_netlab::kafka::mirrored::Mirrored;
use wattle_netlab::kafka::{Access, Broker};
use wattle_netlab::mesh::binary;

use crate::stumbling::put_stumbling_blocks;

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn kafka_and_the_coordinator_tell_the_same_and_the_guide_does_what_it_says() {
    let broker = Broker::start(Access::Open).unwrap();
    let coordinator = Mirrored::start(&broker).unwrap();
    coordinator
        .grow(&[
            "--nodes", "12", "--sites", "3", "--links", "8", "--events", "1500", "--rate", "600",
        ])
        .unwrap();
    coordinator.wait_until_quiet().unwrap();

    let from_kafka = ["--kafka".to_owned(), broker.bootstrap()];
    let from_coordinator = coordinator.options();
    let events = broker
        .kcat(&format!("{}.topology.events.v1", Mirrored::PREFIX))
        .unwrap();
    let mut events: Vec<Value> = events
        .iter()
        .map(|record| serde_json::from_str(record.value.as_deref().unwrap()).unwrap())
        .collect();
    events.sort_by_key(|event| event["source"]["seq"].as_u64());
    for part in [1, 3, 5] {
        let event = &events[events.len() * part / 6];
        let time = event["ts"].as_str().unwrap();
        let expected = fold(&events, time);
        for source in [&from_kafka[..], &from_coordinator[..]] {
            let at = json_lines(&mut wattle(source, &["at", time, "--json"]))
                .unwrap()
                .remove(0);
            assert_eq!(
                entities(&at["data"]).unwrap(),
                expected,
                "at {time} from {source:?}"
            );
        }
        let diffs = [&from_kafka[..], &from_coordinator[..]].map(|source| {
            json_lines(&mut wattle(source, &["diff", time, "now", "--json"]))
                .unwrap()
                .remove(0)["data"]["changes"]
                .clone()
        });
        assert_eq!(diffs[0], diffs[1]);
    }
    both_say_when_a_snapshot_is_complete([&from_kafka, &from_coordinator], events.len() as u64);
    other_parsers_read_every_picture(&from_coordinator, coordinator.directory());
    put_stumbling_blocks(&broker, &events);
    the_guide_does_what_it_says(&broker, &coordinator, &events);
    every_metric_of_the_guide_is_there(&broker, &coordinator);
    let refused = wattle(&from_coordinator, &["at", "#999999"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(7));
    let refused = wattle(&from_coordinator, &["show", "--format", "geojson"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--sites FILE"));
}

fn wattle(source: &[String], arguments: &[&str]) -> Command {
    wattle_topology(source, arguments).unwrap()
}

fn both_say_when_a_snapshot_is_complete(sources: [&[String]; 2], newest: u64) {
    let snapshots = sources.map(|source| {
        let mut tail = wattle(source, &["tail", "--snapshot", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(tail.stdout.take().unwrap());
        let mut keys = BTreeSet::new();
        let mut begun = false;
        for line in reader.lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            match line["data"]["mark"].as_str() {
                Some("snapshot-begin") => begun = true,
                Some("snapshot-end") => {
                    assert_eq!(line["data"]["seq"], newest);
                    assert_eq!(line["data"]["entities"], keys.len());
                    break;
                }
                Some(_) => panic!("{line}"),
                None => {
                    assert!(begun, "{line}");
                    keys.insert(line["data"]["key"].as_str().unwrap().to_owned());
                }
            }
        }
        tail.kill().unwrap();
        tail.wait().unwrap();
        keys
    });
    assert_eq!(snapshots[0], snapshots[1]);
    assert!(snapshots[0].len() > 40);
}

/// Programs that have nothing of ours in them.
fn other_parsers_read_every_picture(source: &[String], folder: &Path) {
    let sites = folder.join("sites.toml");
    fs::write(
        &sites,
        "[sites.site-1]\nlatitude = 50.11\nlongitude = 8.68\n",
    )
    .unwrap();
    let nodes = 12;
    for verbs in [&["show"][..], &["diff", "#20", "now"][..]] {
        let draw = |format: &str| {
            let mut command = wattle(source, verbs);
            command.args(["--format", format]);
            if format == "geojson" {
                command.arg("--sites").arg(&sites);
            }
            let path = folder.join(format!("picture.{format}"));
            fs::write(&path, output(&mut command).unwrap().stdout).unwrap();
            path
        };
        let dot = output(Command::new("dot").arg("-Tplain").arg(draw("dot"))).unwrap();
        let text = String::from_utf8(dot.stdout).unwrap();
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("node "))
                .count(),
            nodes
        );
        for format in ["svg", "graphml"] {
            output(Command::new("xmllint").arg("--noout").arg(draw(format))).unwrap();
        }
        let program = "import json, sys, networkx\n\
            graph = networkx.read_graphml(sys.argv[1])\n\
            print(graph.number_of_nodes(), all('name' in d for _, d in graph.nodes(data=True)))\n\
            places = json.load(open(sys.argv[2]))\n\
            assert places['type'] == 'FeatureCollection'\n\
            for f in places['features']:\n\
            \x20   assert f['type'] == 'Feature' and f['properties']['kind'] in ('node', 'link')\n\
            \x20   assert f['geometry'] is None or f['geometry']['type'] in ('Point', 'LineString')\n\
            yang = json.load(open(sys.argv[3]))['ietf-network:networks']['network'][0]\n\
            points = {(n['node-id'], t['tp-id']) for n in yang['node'] for t in n['ietf-network-topology:termination-point']}\n\
            for l in yang['ietf-network-topology:link']:\n\
            \x20   assert (l['source']['source-node'], l['source']['source-tp']) in points\n\
            \x20   assert (l['destination']['dest-node'], l['destination']['dest-tp']) in points\n";
        let mut python = Command::new(python());
        python.args(["-c", program]);
        let read = output(
            python
                .arg(draw("graphml"))
                .arg(draw("geojson"))
                .arg(draw("rfc8345")),
        )
        .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&read.stdout).trim(),
            format!("{nodes} True")
        );
        let mermaid = fs::read_to_string(draw("mermaid")).unwrap();
        assert!(mermaid.starts_with("graph LR\n"));
        let cypher = fs::read_to_string(draw("cypher")).unwrap();
        assert!(
            cypher
                .lines()
                .all(|line| line.ends_with(';') && line.matches('\'').count() % 2 == 0)
        );
    }
}

/// Every script of the guide that is marked as tested, run as it stands there but for names of broker and network.
fn the_guide_does_what_it_says(broker: &Broker, coordinator: &Mirrored, events: &[Value]) {
    let network = fold(events, "9999");
    let links = events
        .iter()
        .filter(|event| event["kind"] == "link")
        .count();
    let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        *causes.entry(event["cause"].as_str().unwrap()).or_default() += 1;
    }
    let expected: BTreeMap<&str, String> = [
        ("kcat-events", format!("{links} lines")),
        ("kcat-state", format!("{} lines", network.len())),
        // The gap is one more.
        ("jq-causes", format!("{} lines", causes.len() + 1)),
        (
            "python-state",
            format!(
                "complete: {} entities as of event {}",
                network.len(),
                events.len()
            ),
        ),
        (
            "python-events",
            format!(
                "{n} events, 0 doubled, 0 missing, newest {n}",
                n = events.len()
            ),
        ),
        (
            "python-networkx",
            format!(
                "12 nodes, {} links",
                network
                    .keys()
                    .filter(|key| key.starts_with("link:"))
                    .count()
            ),
        ),
    ]
    .into();
    let blocks = tested_blocks(&["sh", "python"], &broker.bootstrap(), Mirrored::PREFIX).unwrap();
    assert!(blocks.keys().eq(expected.keys()), "{:?}", blocks.keys());
    for (name, block) in &blocks {
        let name = name.as_str();
        let mut command = match block.language.as_str() {
            "sh" => Command::new("bash"),
            _ => Command::new(python()),
        };
        let path = std::env::var("PATH").unwrap();
        let ours = binary("wattle").unwrap();
        command.env(
            "PATH",
            format!("{}:{path}", ours.parent().unwrap().display()),
        );
        let script = coordinator.directory().join(name);
        fs::write(&script, &block.text).unwrap();
        let said = String::from_utf8(output(command.arg(&script)).unwrap().stdout).unwrap();
        let count = format!("{} lines", said.lines().count());
        let last = said.lines().last().unwrap_or_default();
        assert!(
            expected[name] == count || expected[name] == last,
            "{name}: expected {}: {said}",
            expected[name]
        );
    }
}

fn every_metric_of_the_guide_is_there(broker: &Broker, coordinator: &Mirrored) {
    let blocks = tested_blocks(&["promql"], &broker.bootstrap(), Mirrored::PREFIX).unwrap();
    assert!(blocks.keys().eq(["grafana-panels"]));
    let words = blocks["grafana-panels"]
        .text
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("wattle_")).collect();
    assert!(!named.is_empty());
    let metrics = coordinator.metrics().unwrap();
    for name in named {
        let there = metrics
            .lines()
            .any(|line| line.split([' ', '{']).next() == Some(name));
        assert!(there, "no {name} in {metrics}");
    }
}

/// The same of events as kcat shows them.
fn fold(events: &[Value], time: &str) -> BTreeMap<String, Value> {
    let mut images = BTreeMap::new();
    for event in events
        .iter()
        .take_while(|event| event["ts"].as_str() <= Some(time))
    {
        let key = event["key"].as_str().unwrap().to_owned();
        match &event["after"] {
            Value::Null => images.remove(&key),
            image => images.insert(key, image.clone()),
        };
    }
    images
}

/// What a consumer in Python wants.
fn python() -> &'static str {
    answer::python(
        "confluent_kafka, networkx",
        "python3-confluent-kafka, python3-networkx",
    )
    .unwrap()
}
