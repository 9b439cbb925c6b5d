//! Reading the topology back: the network at any time is what was written, told once more with nothing of the code that
//! is tested. `sudo tools/test kafka` runs it; it needs `WATTLE_KAFKA_LIBS`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use wattle_api::Timestamp;
use wattle_api::stream::Kafka;
use wattle_api::topology::{Cause, Entity, EntityKey, LinkEntity, NodeEntity, PrefixEntity};
use wattle_fleet::{Difference, Evidence};
use wattle_mirror::{Config, Mirror, StoreOutbox};
use wattle_model::{Carrier, NetworkId, NodeId, NodeIndex, NodeName};
use wattle_netlab::answer::{FINDINGS, entities, json_lines, wattle_topology};
use wattle_netlab::block_on;
use wattle_netlab::kafka::{Access, Broker};
use wattle_netlab::published;
use wattle_store::{Change, Store};
use wattle_topology::{Graph, Item, Moment, Source, Start};

/// Events of the story.
const EVENTS: u64 = 20_000;

/// Times at which the network is compared.
const TIMES: usize = 20;

/// Lines of an answer that are judged by its schema: an event is like the others.
const PER_ANSWER: usize = 100;

/// How long the network at a time may take, a new process included: five times the target, which a bench measures.
const AT_WITHIN: Duration = Duration::from_secs(15);

const PATIENCE: Duration = Duration::from_secs(60);

const NETWORK: NetworkId = NetworkId(0xab);

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn the_network_at_twenty_random_times_is_what_was_written() {
    let broker = Broker::start(Access::Open).unwrap();
    let seed = now().as_millis();
    println!("seed {seed}");
    let mut dice = Dice(seed | 1);
    let story = story(&mut dice);
    write(&broker, &story);
    let source = Source::find(Kafka::plaintext(&broker.bootstrap()));
    let source = block_on(source).unwrap();
    let (first, last) = (story[0].ts, story.last().unwrap().ts);
    let mut slowest = Duration::ZERO;
    for turn in 0..TIMES {
        // The very beginning and the very end are times, too.
        let time = match turn {
            0 => first - 1,
            1 => last,
            _ => first + dice.below(last - first),
        };
        let moment = Moment::Time(Timestamp::from_millis(time));
        let began = Instant::now();
        let found = block_on(wattle_topology::at(&source, moment)).unwrap();
        slowest = slowest.max(began.elapsed());
        let (seq, truth) = truth(&story, time);
        assert_eq!(found.seq(), seq, "seed {seed}, time {time}");
        assert_eq!(held(&found), truth, "seed {seed}, time {time}");
    }
    println!("slowest of {TIMES}: {} ms", slowest.as_millis());
    assert!(slowest < AT_WITHIN, "{slowest:?}");
    the_command_line_tells_the_same(&broker, &story, &mut dice);
    let site = site(NodeId(3));
    block_on(a_reader_of_one_site_sees_exactly_its_events(
        &source, &story, &site,
    ));
}

/// `at`, `diff`, `stats`, `replay`, `verify` and `tail` over the same story.
fn the_command_line_tells_the_same(broker: &Broker, story: &[Told], dice: &mut Dice) {
    let source = ["--json", "--kafka", &broker.bootstrap()].map(str::to_owned);
    let printed = RefCell::new(String::new());
    let wattle = |arguments: &[&str]| {
        let mut command = wattle_topology(&source, arguments).unwrap();
        let lines = json_lines(&mut command).unwrap();
        let first = lines.iter().take(PER_ANSWER).map(Value::to_string);
        *printed.borrow_mut() += &first.map(|line| line + "\n").collect::<String>();
        lines
    };
    let (first, last) = (story[0].ts, story.last().unwrap().ts);
    let earlier = first + dice.below((last - first) / 2);
    let later = earlier + dice.below(last - earlier);
    let text = |millis| Timestamp::from_millis(millis).to_string();
    let (from, to) = (text(earlier), text(later));

    let began = Instant::now();
    let at = wattle(&["at", &from]).remove(0);
    assert!(began.elapsed() < AT_WITHIN, "{:?}", began.elapsed());
    let (seq, before) = truth(story, earlier);
    assert_eq!(at["data"]["seq"], seq);
    assert_eq!(entities(&at["data"]).unwrap(), before);
    let by_number = wattle(&["at", &format!("#{seq}")]).remove(0);
    assert_eq!(entities(&by_number["data"]).unwrap(), before);

    let (end, after) = truth(story, later);
    let diff = wattle(&["diff", &from, &to]).remove(0);
    let fates = |fate: &str| -> BTreeSet<String> {
        let changes = diff["data"]["changes"].as_array().unwrap();
        let of_fate = changes.iter().filter(|change| change["fate"] == fate);
        of_fate
            .map(|change| change["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let keys =
        |of: &BTreeMap<String, Value>, without: &BTreeMap<String, Value>| -> BTreeSet<String> {
            of.keys()
                .filter(|key| !without.contains_key(*key))
                .cloned()
                .collect()
        };
    assert_eq!(fates("appeared"), keys(&after, &before));
    assert_eq!(fates("vanished"), keys(&before, &after));
    let changed = before
        .iter()
        .filter(|(key, image)| after.get(*key).is_some_and(|now| now != *image));
    assert_eq!(
        fates("changed"),
        changed.map(|(key, _)| key.clone()).collect()
    );

    let stats = wattle(&["stats", "--from", &from, "--to", &to]).remove(0);
    assert_eq!(stats["data"]["events"], end - seq);
    let gone = story
        .iter()
        .filter(|told| (seq + 1..=end).contains(&told.seq) && told.after.is_none());
    assert_eq!(
        stats["data"]["ops"]["d"].as_u64().unwrap_or(0),
        gone.count() as u64
    );

    let replayed = wattle(&["replay", "--from", &from, "--to", &to, "--speed", "1e9"]);
    assert!(seqs(&replayed).eq(seq + 1..=end));

    let last = story.last().unwrap().seq;
    let since = wattle(&["tail", "--since", &from, "--max", &(last - seq).to_string()]);
    assert!(seqs(&since).eq(seq + 1..=last), "{since:?}");
    let stepped = wattle_topology(&source, &["replay", "--from", &from, "--step"]);
    assert_eq!(steps(&mut stepped.unwrap(), 3), [seq + 1, seq + 2, seq + 3]);

    let (here, there, price) = dearest_of_the_cheapest(&before);
    let way = wattle(&["path", &here.to_string(), &there.to_string(), "--at", &from]);
    let way = &way[0]["data"];
    assert_eq!(
        (way["seq"].as_u64(), way["cost_us"].as_u64()),
        (Some(seq), Some(price)),
        "{way}"
    );

    let verified = wattle(&["verify"]).remove(0);
    for fault in FINDINGS {
        assert_eq!(verified["data"][fault], 0, "{fault}: {verified}");
    }
    let checked = verified["data"]["state_checked"].as_u64();
    assert!(checked > Some(100), "{verified}");

    let site = site(NodeId(5));
    let tailed = wattle(&[
        "tail",
        "--from-start",
        "--site",
        site.as_str(),
        "--max",
        "200",
    ]);
    let seen: Vec<u64> = seqs(&tailed).collect();
    assert_eq!(seen, of_site(story, &site).take(200).collect::<Vec<_>>());
    let after: Vec<u64> = of_site(story, &site).filter(|of| *of > seq).collect();
    let count = after.len().to_string();
    let since = wattle(&[
        "tail",
        "--since",
        &from,
        "--site",
        site.as_str(),
        "--max",
        &count,
    ]);
    assert_eq!(seqs(&since).collect::<Vec<_>>(), after);

    let named = published::judge(&printed.into_inner()).unwrap();
    let answers = ["", "_diff", "_event", "_path", "_stats", "_verification"];
    let answers = answers.map(|answer| format!("wattle.topology{answer}/v1"));
    assert_eq!(named, answers.into());
}

/// The events that a replay tells when Enter is hit before each of them, and `q` before the one after.
fn steps(replay: &mut Command, count: usize) -> Vec<u64> {
    let replay = replay.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut replay = replay.stderr(Stdio::null()).spawn().unwrap();
    let mut keys = replay.stdin.take().unwrap();
    keys.write_all(("\n".repeat(count) + "q\n").as_bytes())
        .unwrap();
    let output = replay.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    seqs(&lines).collect()
}

/// A node, the one that is dearest to reach from there, and the price, as rounds of relaxation over all links find
/// it: a link counts if both ends report it, at the worse of their prices; a node between takes what its transit costs.
fn dearest_of_the_cheapest(images: &BTreeMap<String, Value>) -> (NodeId, NodeId, u64) {
    let entities = images.values().cloned();
    let (mut links, mut transit) = (BTreeMap::new(), BTreeMap::new());
    for entity in entities.map(|image| serde_json::from_value(image).unwrap()) {
        match entity {
            Entity::Link(link) => {
                links.insert((link.from, link.to), link.cost_us.unwrap());
            }
            Entity::Node(node) => {
                transit.insert(node.id, node.transit_cost_us.unwrap());
            }
            Entity::Prefix(_) => {}
        }
    }
    let here = *transit.keys().next().unwrap();
    let mut reached = BTreeMap::from([(here, 0_u64)]);
    for _ in 0..links.len() {
        for ((from, to), there) in &links {
            let through = match *from == here {
                true => Some(0),
                false => transit.get(from).copied(),
            };
            let (Some(price), Some(back), Some(through)) =
                (reached.get(from), links.get(&(*to, *from)), through)
            else {
                continue;
            };
            let price = price + u64::from(through) + u64::from(*there.max(back));
            let known = reached.entry(*to).or_insert(price);
            *known = price.min(*known);
        }
    }
    let known = reached
        .iter()
        .filter(|(node, _)| transit.contains_key(node));
    let dearest = known.max_by_key(|(_, price)| **price).unwrap();
    assert!(*dearest.1 > 0, "two nodes are joined");
    (here, *dearest.0, *dearest.1)
}

fn seqs(lines: &[Value]) -> impl Iterator<Item = u64> {
    let seqs = lines
        .iter()
        .map(|line| line["data"]["source"]["seq"].as_u64());
    seqs.map(Option::unwrap)
}

/// A site's reader sees exactly its events, in order, and reads no other partition.
async fn a_reader_of_one_site_sees_exactly_its_events(
    source: &Source,
    story: &[Told],
    site: &NodeName,
) {
    let sites = std::slice::from_ref(site);
    let tail = wattle_topology::tail_sites(source, sites, Start::Oldest);
    let mut tail = tail.await.unwrap();
    assert_eq!(tail.partitions().len(), 1);
    let expected: Vec<u64> = of_site(story, site).collect();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        match tail.next().await.unwrap().unwrap() {
            Item::Event(event) => seen.push(event.id.seq),
            Item::Missing(first, last) => panic!("{first} to {last} are missing"),
            Item::Joined(partitions) => panic!("{partitions:?} came later"),
        }
    }
    assert_eq!(seen, expected);
}

fn of_site<'a>(story: &'a [Told], name: &'a NodeName) -> impl Iterator<Item = u64> + 'a {
    let told = story.iter().filter(move |told| site(told.owner()) == *name);
    told.map(|told| told.seq)
}

/// One event of the story.
#[derive(Debug, Clone)]
struct Told {
    seq: u64,
    ts: u64,
    key: EntityKey,
    before: Option<Entity>,
    after: Option<Entity>,
}

impl Told {
    /// The node that answers for the entity.
    fn owner(&self) -> NodeId {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .unwrap()
            .owner()
    }

    fn difference(&self) -> Difference {
        let cause = match (&self.before, &self.after) {
            (None, _) => Cause::LinkReported,
            (Some(_), Some(_)) => Cause::LinkMeasured,
            (Some(_), None) => Cause::LinkWithdrawn,
        };
        Difference {
            key: self.key,
            before: self.before.clone(),
            after: self.after.clone(),
            cause,
            evidence: Evidence::default(),
            site: Some(site(self.owner())),
        }
    }
}

/// Writes the story into a coordinator's database, each time a transaction, and lets the mirror carry it to Kafka.
fn write(broker: &Broker, story: &[Told]) {
    let state = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = state.path().join("coordinator.db");
    let store = runtime
        .block_on(Store::open(&database, NETWORK, "lab", "test"))
        .unwrap();
    for moment in story.chunk_by(|told, next| told.ts == next.ts) {
        let change = Change {
            differences: moment.iter().map(Told::difference).collect(),
            ..Change::default()
        };
        let at = Timestamp::from_millis(moment[0].ts);
        runtime.block_on(store.commit(&change, at)).unwrap();
    }
    let outbox = StoreOutbox::new(store.clone(), runtime.handle().clone());
    let config = Config {
        kafka: Kafka::plaintext(&broker.bootstrap()),
        network: NETWORK,
        network_name: "lab".into(),
        term: store.term(),
    };
    let mirror = Mirror::start(config, outbox).unwrap();
    eventually("the mirror has written everything", || {
        mirror.status().committed_seq == EVENTS
    });
    mirror.stop();
}

/// Forty nodes in six sites, their links and their prefixes come, change and go, about twenty at a time.
fn story(dice: &mut Dice) -> Vec<Told> {
    let mut ts = now().as_millis() - 7_200_000;
    let mut images: BTreeMap<EntityKey, Entity> = BTreeMap::new();
    let mut events = Vec::new();
    for seq in 1..=EVENTS {
        if dice.below(20) == 0 {
            ts += 1 + dice.below(800);
        }
        let next = entity(dice, seq);
        let key = next.key();
        let before = images.get(&key).cloned();
        let after = if before.is_some() && dice.below(4) == 0 {
            None
        } else {
            Some(next)
        };
        match &after {
            Some(image) => images.insert(key, image.clone()),
            None => images.remove(&key),
        };
        events.push(Told {
            seq,
            ts,
            key,
            before,
            after,
        });
    }
    events
}

fn entity(dice: &mut Dice, seq: u64) -> Entity {
    let node = NodeId(1 + dice.below(40));
    match dice.below(10) {
        0 => Entity::Node(NodeEntity {
            id: node,
            name: format!("n{}", node.0).parse().unwrap(),
            index: NodeIndex(node.0 as u16),
            addresses: vec![format!("10.77.0.{}", node.0).parse().unwrap()],
            tags: vec![],
            site: Some(site(node)),
            leaf_of: None,
            reporting: true,
            agent_version: Some("0.1.0".into()),
            epoch: Some(seq as u32),
            transit_cost_us: Some(0),
        }),
        1 => Entity::Prefix(PrefixEntity {
            prefix: format!("10.{}.0.0/16", node.0).parse().unwrap(),
            origin: node,
            origin_name: Some(format!("n{seq}").parse().unwrap()),
        }),
        _ => Entity::Link(LinkEntity {
            from: node,
            to: NodeId(1 + (node.0 - 1 + [1, 2, 3, 37, 38, 39][dice.below(6) as usize]) % 40),
            from_name: None,
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: dice.below(2) == 0,
            tier: 0,
            cost_us: Some(seq as u32),
            rtt_us: 1_000 + seq,
            jitter_us: 10,
            loss_ppm: 0,
        }),
    }
}

fn site(node: NodeId) -> NodeName {
    format!("site{}", node.0 % 6).parse().unwrap()
}

/// The newest event that is not later than a time, and everything there was then: told once more, with nothing of the
/// code that is tested.
fn truth(story: &[Told], time: u64) -> (u64, BTreeMap<String, Value>) {
    let mut images = BTreeMap::new();
    let mut last = 0;
    for event in story.iter().take_while(|event| event.ts <= time) {
        last = event.seq;
        match &event.after {
            Some(image) => {
                images.insert(event.key.to_string(), serde_json::to_value(image).unwrap())
            }
            None => images.remove(&event.key.to_string()),
        };
    }
    (last, images)
}

fn held(graph: &Graph) -> BTreeMap<String, Value> {
    let entities = graph.entities();
    entities
        .map(|(key, entity)| (key.to_string(), serde_json::to_value(entity).unwrap()))
        .collect()
}

/// Numbers that look random and are the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(since.as_millis() as u64)
}
