//! Flink, Kafka Connect and Neo4j do with the consumers' guide what it says. `sudo tools/test readers` runs these; they
//! need `WATTLE_KAFKA_LIBS` and `WATTLE_READERS_LIBS`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod stumbling;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use wattle_api::stream::FILLER_KEY;
use wattle_netlab::answer::{entities, json_lines, output, wattle_topology};
use wattle_netlab::guide::{Block, tested_blocks};
use wattle_netlab::kafka::mirrored::Mirrored;
use wattle_netlab::kafka::{Access, Broker, KcatRecord};
use wattle_netlab::readers::{Connect, Neo4j, flink_sql};
use wattle_netlab::{PATIENCE, eventually};

use crate::stumbling::{GHOST, put_stumbling_blocks};

/// As many messages as Neo4j's connector hands to the database at once.
const BATCH: usize = 1_000;

/// Fillers of each topic, which `kcat` as we call it passes over.
const FILLERS: usize = 1;

#[test]
#[ignore = "needs a Kafka broker and Flink: run by tools/test readers"]
fn flink_tells_the_network_and_its_flapping_links() {
    let scene = Scene::set();
    let blocks = scene.blocks("sql");
    assert!(
        blocks
            .keys()
            .eq(["flink-flapping", "flink-sites", "flink-tables"])
    );
    // The tables are endless; here each ends where its topic does.
    let script = format!(
        "SET 'sql-client.execution.result-mode' = 'tableau';\n\
         SET 'table.display.max-column-width' = '200';\n\
         SET 'table.local-time-zone' = 'UTC';\n\
         {}\n\
         ALTER TABLE topology_images SET ('scan.bounded.mode' = 'latest-offset');\n\
         ALTER TABLE topology_events SET ('scan.bounded.mode' = 'latest-offset');\n\
         {}\n{}\n",
        blocks["flink-tables"].text, blocks["flink-sites"].text, blocks["flink-flapping"].text
    );
    let directory = tempfile::tempdir().unwrap();
    let said = flink_sql(directory.path(), &script).unwrap();
    let results = tables(&said);
    assert_eq!(results.len(), 2, "{said}");
    assert_eq!(results[0], scene.between_sites(), "{said}");
    let flapping = scene.flapping();
    assert!(!flapping.is_empty());
    assert_eq!(results[1], flapping, "{said}");
}

#[test]
#[ignore = "needs a Kafka broker and Kafka Connect: run by tools/test readers"]
fn kafka_connect_reads_every_record_with_the_converters_of_the_guide() {
    let scene = Scene::set();
    let directory = tempfile::tempdir().unwrap();
    let connect = Connect::start(directory.path(), &scene.broker.bootstrap()).unwrap();
    fs::write(directory.path().join("neo4j.properties"), "password=secret").unwrap();
    let blocks = scene.blocks("json");
    assert!(blocks.keys().eq(["connect-elasticsearch", "connect-neo4j"]));
    for (name, block) in blocks {
        let secrets = directory.path().display().to_string();
        let text = block.text.replace("/etc/connect", &secrets);
        let mut configuration: Value = serde_json::from_str(&text).unwrap();
        let file = directory.path().join(&name);
        // A sink that writes what it is handed, in the place of one that is not to be had here.
        configuration["connector.class"] =
            "org.apache.kafka.connect.file.FileStreamSinkConnector".into();
        configuration["file"] = file.display().to_string().into();
        connect.add(&name, &configuration).unwrap();
        let topic = configuration["topics"].as_str().unwrap();
        let expected = scene.values(topic);
        eventually("every record is in the file", PATIENCE, || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            Ok(text.lines().count() >= expected)
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", connect.status(&name).unwrap()));
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), expected, "{name}");
        assert!(!text.contains(GHOST), "{name}");
        let status = connect.status(&name).unwrap();
        assert_eq!(status["tasks"][0]["state"], "RUNNING", "{status}");
    }
}

#[test]
#[ignore = "needs a Kafka broker and Neo4j: run by tools/test readers"]
fn the_cypher_of_the_guide_makes_the_network_whichever_partition_comes_first() {
    let scene = Scene::set();
    let expected = scene.graph();
    let [nodes, _, prefixes] = &expected;
    assert!(nodes.iter().any(|node| node.contains("null")), "{nodes:?}");
    assert_eq!(prefixes.len(), 8);
    let sink = Sink::of(&scene);
    let directory = tempfile::tempdir().unwrap();
    let neo4j = Neo4j::start(directory.path()).unwrap();
    let indexes = scene.blocks("cypher");
    assert!(indexes.keys().eq(["neo4j-indexes"]));
    for statement in indexes["neo4j-indexes"].text.split_terminator(';') {
        neo4j.run(statement, &json!({})).unwrap();
    }
    for direction in [1, -1] {
        empty(&neo4j);
        sink.write(&neo4j, direction, 0);
        assert_eq!(graph(&neo4j), expected, "{direction}");
    }

    empty(&neo4j);
    scene.draw(&["show"], &neo4j);
    assert_eq!(graph(&neo4j), expected, "a picture");

    // Half of the way, and the rest of it as a difference, or from the topic.
    let middle = scene.events.len() / 2;
    let at = format!("#{middle}");
    empty(&neo4j);
    scene.draw(&["at", &at], &neo4j);
    scene.draw(&["diff", &at, "now"], &neo4j);
    assert_eq!(graph(&neo4j), expected, "a picture and a difference");
    for direction in [1, -1] {
        empty(&neo4j);
        scene.draw(&["at", &at], &neo4j);
        sink.write(&neo4j, direction, middle);
        assert_eq!(graph(&neo4j), expected, "a picture, then events");
    }
}

/// What Neo4j's connector, which is not to be had here, does with the guide's configuration.
struct Sink {
    statement: String,
    records: Vec<KcatRecord>,
}

impl Sink {
    fn of(scene: &Scene) -> Self {
        let block = &scene.blocks("json")["connect-neo4j"];
        let configuration: Value = serde_json::from_str(&block.text).unwrap();
        let events = format!("{}.topology.events.v1", Mirrored::PREFIX);
        let cypher = configuration[format!("neo4j.cypher.topic.{events}")]
            .as_str()
            .unwrap();
        let statement = format!(
            "UNWIND $events AS message WITH message.value AS event, message.timestamp AS __timestamp, \
             message.header AS __header, message.key AS __key, message.value AS __value CALL {{WITH * {cypher}}}"
        );
        let mut records = scene.broker.kcat(&events).unwrap();
        // `kcat` as we call it passes over these.
        records.push(KcatRecord {
            key: FILLER_KEY.to_owned(),
            value: None,
            ..records[0].clone()
        });
        Self { statement, records }
    }

    /// Writes the events after `seq`, partition after partition in this direction.
    fn write(&self, neo4j: &Neo4j, direction: i32, seq: usize) {
        let mut records = self.records.clone();
        records.sort_by_key(|record| (direction * record.partition, record.offset));
        let messages = records.iter().map(message);
        let is_later = |message: &Value| {
            let event = &message["value"]["source"]["seq"];
            event.as_u64().is_none_or(|event| event > seq as u64)
        };
        let messages: Vec<Value> = messages.filter(is_later).collect();
        for batch in messages.chunks(BATCH) {
            neo4j
                .run(&self.statement, &json!({ "events": batch }))
                .unwrap();
        }
    }
}

/// A network with a history, in Kafka.
struct Scene {
    broker: Broker,
    network: Mirrored,
    /// Every event, in the order of their numbers.
    events: Vec<Value>,
    /// Every entity that there is, by its key: what our own library tells.
    entities: BTreeMap<String, Value>,
}

impl Scene {
    fn set() -> Self {
        let broker = Broker::start(Access::Open).unwrap();
        let network = Mirrored::start(&broker).unwrap();
        // Two that know each other alone leave nothing behind when they go; one that others link to is not forgotten.
        let pair = "--seed 1 --nodes 2 --links 1 --events 10 --sites 2 --prefixes 2";
        let fleet = "--nodes 12 --links 8 --events 6000 --rate 600 --sites 3 --prefixes 9";
        for fleet in [pair, fleet] {
            let words: Vec<&str> = fleet.split(' ').collect();
            network.grow(&words).unwrap();
        }
        for node in ["fleet-1-0", "fleet-1-1", "fleet-0-7"] {
            network.remove(node).unwrap();
        }
        network.wait_until_quiet().unwrap();
        let mut show = wattle_topology(&network.options(), &["show", "--json"]).unwrap();
        let shown = json_lines(&mut show).unwrap().remove(0);
        let mut scene = Self {
            broker,
            network,
            events: Vec::new(),
            entities: entities(&shown["data"]).unwrap(),
        };
        scene.read_events();
        put_stumbling_blocks(&scene.broker, &scene.events);
        scene
    }

    fn read_events(&mut self) {
        let topic = format!("{}.topology.events.v1", Mirrored::PREFIX);
        let records = self.broker.kcat(&topic).unwrap();
        let events = records
            .iter()
            .map(|record| serde_json::from_str(record.value.as_deref().unwrap()).unwrap());
        self.events = events.collect();
        self.events
            .sort_by_key(|event| event["source"]["seq"].as_u64());
    }

    /// Runs the Cypher of a picture of the network.
    fn draw(&self, verbs: &[&str], neo4j: &Neo4j) {
        let mut draw = wattle_topology(&self.network.options(), verbs).unwrap();
        let drawn = output(draw.args(["--format", "cypher"])).unwrap().stdout;
        for statement in String::from_utf8(drawn).unwrap().lines() {
            neo4j.run(statement, &json!({})).unwrap();
        }
    }

    fn blocks(&self, language: &str) -> BTreeMap<String, Block> {
        tested_blocks(&[language], &self.broker.bootstrap(), Mirrored::PREFIX).unwrap()
    }

    /// How many committed records a topic has, tombstones and fillers included.
    fn values(&self, topic: &str) -> usize {
        self.broker.kcat(topic).unwrap().len() + FILLERS
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&String, &Value)> {
        let prefix = format!("{kind}:");
        self.entities
            .iter()
            .filter(move |(key, _)| key.starts_with(&prefix))
    }

    /// Links and the least cost from site to site, of links whose ends are members.
    fn between_sites(&self) -> BTreeSet<Vec<String>> {
        let site = |node: &Value| {
            let node = self
                .entities
                .get(&format!("node:{}", node.as_str().unwrap()))?;
            Some(node["site"].as_str().unwrap().to_owned())
        };
        let mut costs: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (_, link) in self.of_kind("link") {
            if let (Some(from), Some(to)) = (site(&link["from"]), site(&link["to"])) {
                let cost = link["cost_us"].as_u64().unwrap();
                costs.entry((from, to)).or_default().push(cost);
            }
        }
        let rows = costs.into_iter().map(|((from, to), costs)| {
            let least = costs.iter().min().unwrap();
            vec![from, to, costs.len().to_string(), least.to_string()]
        });
        rows.collect()
    }

    /// Links that changed more than five times in a minute.
    fn flapping(&self) -> BTreeSet<Vec<String>> {
        let mut changes: BTreeMap<_, u32> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event["kind"] == "link") {
            let (ts, key) = (
                event["ts"].as_str().unwrap(),
                event["key"].as_str().unwrap(),
            );
            let minute = format!("{} {}:00.000", &ts[..10], &ts[11..16]);
            *changes.entry((minute, key.to_owned())).or_default() += 1;
        }
        let flapping = changes.into_iter().filter(|(_, count)| *count > 5);
        flapping
            .map(|((minute, key), count)| vec![minute, key, count.to_string()])
            .collect()
    }

    /// Nodes, links and prefixes as the guide's Cypher keeps them: what a link leads to and is no member has no name.
    fn graph(&self) -> [BTreeSet<String>; 3] {
        let row = |values: &[&Value]| json!(values).to_string();
        let ends = self
            .of_kind("link")
            .flat_map(|(_, link)| [&link["from"], &link["to"]]);
        let members = self.of_kind("node").map(|(_, node)| &node["id"]);
        let nodes = ends.chain(members).map(|id| {
            let key = format!("node:{}", id.as_str().unwrap());
            let node = self.entities.get(&key).unwrap_or(&Value::Null);
            row(&[id, &node["name"], &node["site"], &node["reporting"]])
        });
        let links = self.of_kind("link").map(|(key, link)| {
            row(&[
                &json!(key),
                &link["from"],
                &link["to"],
                &link["cost_us"],
                &link["rtt_us"],
                &link["loss_ppm"],
            ])
        });
        let prefixes = self.of_kind("prefix");
        let prefixes = prefixes.map(|(_, prefix)| row(&[&prefix["prefix"], &prefix["origin"]]));
        [nodes.collect(), links.collect(), prefixes.collect()]
    }
}

/// The tables that Flink's client printed, each as its changes leave it.
fn tables(said: &str) -> Vec<BTreeSet<Vec<String>>> {
    let mut tables: Vec<BTreeSet<Vec<String>>> = Vec::new();
    for line in said.lines().filter(|line| line.starts_with("| ")) {
        let cells = line.trim_matches('|').split('|');
        let mut cells: Vec<String> = cells.map(|cell| cell.trim().to_owned()).collect();
        let change = cells.remove(0);
        if change == "op" {
            tables.push(BTreeSet::new());
            continue;
        }
        let table = tables.last_mut().unwrap();
        match change.as_str() {
            "+I" | "+U" => assert!(table.insert(cells), "twice: {line}"),
            "-U" | "-D" => assert!(table.remove(&cells), "not there: {line}"),
            other => panic!("{other}: {line}"),
        }
    }
    tables
}

/// A record as the connector hands it over.
fn message(record: &KcatRecord) -> Value {
    let value = record.value.as_deref();
    let value: Option<Value> = value.map(|value| serde_json::from_str(value).unwrap());
    json!({"key": record.key, "value": value, "header": {}, "timestamp": null})
}

fn empty(neo4j: &Neo4j) {
    neo4j.run("MATCH (n) DETACH DELETE n", &json!({})).unwrap();
}

/// What a Neo4j knows.
fn graph(neo4j: &Neo4j) -> [BTreeSet<String>; 3] {
    let questions = [
        "MATCH (n) WHERE NOT n:WattlePrefix RETURN n.id, n.name, n.site, n.reporting",
        "MATCH (a)-[l:LINK]->(b) RETURN l.key, a.id, b.id, l.cost_us, l.rtt_us, l.loss_ppm",
        "MATCH (p:WattlePrefix) OPTIONAL MATCH (n)-[:ANNOUNCES]->(p) RETURN p.prefix, n.id",
    ];
    questions.map(|question| {
        let rows = neo4j.run(question, &json!({})).unwrap();
        rows.iter().map(Value::to_string).collect()
    })
}
