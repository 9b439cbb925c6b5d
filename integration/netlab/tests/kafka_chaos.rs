//! The promise of the topology stream under `kill -9`: a process with the real database and the real mirror writes
//! events, and is killed again and again, as is the broker; sometimes it is only paused, another takes over with a copy
//! of its state, and then it wakes up. `integration/kafka/judge.py` (kcat) and `wattle_topology::verify` must then
//! agree that every event is there once and in order. `sudo tools/test kafka` runs it; `--full` makes it the long one,
//! `--brokers 3` kills each of three brokers in turn instead of the only one.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use wattle_api::stream::Kafka;
use wattle_netlab::block_on;
use wattle_netlab::kafka::cluster::{Cluster, Shape};
use wattle_netlab::kafka::{Access, Broker};
use wattle_netlab::mesh::binary;
use wattle_topology::{Source, verify};

/// Set to `full` for the long run.
const LENGTH: &str = "WATTLE_CHAOS";
/// How many brokers there are; one if it is not set.
const BROKERS: &str = "WATTLE_CHAOS_BROKERS";
const TOPIC: &str = "wattle.chaos.topology.events.v1";
/// A paused leader that wakes up notices within this time that another leads.
const NOTICE: Duration = Duration::from_secs(180);
/// The exit code of `wattle-stream` when it stepped down.
const STEPPED_DOWN: i32 = 3;

/// What happens in a run.
struct Plan {
    events: u64,
    process_kills: u64,
    broker_kills: u64,
    zombies: u64,
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn every_event_survives_kills_of_the_mirror_kills_of_the_broker_and_leaders_that_wake_up() {
    let plan = match std::env::var(LENGTH).as_deref() {
        Ok("full") => Plan {
            events: 1_000_000,
            process_kills: 100,
            broker_kills: 30,
            zombies: 10,
        },
        _ => Plan {
            events: 100_000,
            process_kills: 20,
            broker_kills: 6,
            zombies: 3,
        },
    };
    let began = Instant::now();
    let mut chaos = Chaos::start();
    let steps = plan.process_kills + plan.zombies;
    let (mut kills, mut zombies, mut broker_kills) = (0, 0, 0);
    for step in 1..=steps {
        let target = plan.events * step / (steps + 1);
        let broker_too = step * plan.broker_kills / steps > broker_kills;
        broker_kills += u64::from(broker_too);
        if step * plan.zombies / steps > zombies {
            zombies += 1;
            chaos.pause_and_replace(step, broker_too);
        } else {
            kills += 1;
            chaos.run_and_kill(step, target, broker_too);
        }
    }
    chaos.run_to_the_end(plan.events);
    println!(
        "{kills} kills, {broker_kills} of the broker, {zombies} leaders that woke up, {} events in {:.0} s",
        plan.events,
        began.elapsed().as_secs_f64()
    );
    assert_eq!(
        (kills, broker_kills, zombies),
        (plan.process_kills, plan.broker_kills, plan.zombies)
    );
    println!("{}", chaos.judge(plan.events));
}

/// Brokers, and the state of the coordinator that leads.
struct Chaos {
    brokers: Brokers,
    states: Vec<TempDir>,
}

/// What Kafka consists of. Whose turn it is to be killed is the number beside it.
enum Brokers {
    /// One broker that is all there is.
    One(Broker),
    /// Several, each of which the others replace.
    Several(Box<Cluster>, usize),
}

impl Brokers {
    fn start() -> Self {
        let count = std::env::var(BROKERS).map_or(1, |count| count.parse().unwrap());
        match count {
            1 => Self::One(Broker::start(Access::Open).unwrap()),
            _ => Self::Several(Box::new(Cluster::start(Shape::open(count)).unwrap()), 0),
        }
    }

    /// `host:port` of each.
    fn addresses(&self) -> Vec<String> {
        match self {
            Self::One(broker) => vec![broker.bootstrap()],
            Self::Several(cluster, _) => cluster.bootstrap(),
        }
    }

    /// Kills a broker and starts it again without waiting.
    fn kill_one(&mut self) {
        match self {
            Self::One(broker) => {
                broker.kill().unwrap();
                broker.spawn().unwrap();
            }
            Self::Several(cluster, turn) => {
                let at = *turn % cluster.len();
                *turn += 1;
                cluster.kill(at).unwrap();
                cluster.spawn(at).unwrap();
            }
        }
    }

    fn wait_until_ready(&mut self) {
        match self {
            Self::One(broker) => broker.wait_until_ready().unwrap(),
            Self::Several(cluster, _) => cluster.wait_until_ready().unwrap(),
        }
    }
}

impl Chaos {
    fn start() -> Self {
        Self {
            brokers: Brokers::start(),
            states: vec![tempfile::tempdir().unwrap()],
        }
    }

    fn state(&self) -> PathBuf {
        self.states.last().unwrap().path().to_owned()
    }

    /// Kills it sometimes in the middle of taking over, sometimes amid transactions.
    fn run_and_kill(&mut self, step: u64, target: u64, broker_too: bool) {
        let mut writer = self.writer("--events", target);
        std::thread::sleep(life(step));
        if broker_too {
            self.brokers.kill_one();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        if broker_too {
            self.brokers.wait_until_ready();
        }
    }

    /// Stops it amid its work; another goes on with a copy of its state, as after a restore on another host; then the
    /// first one wakes up, in the belief that it leads.
    fn pause_and_replace(&mut self, step: u64, broker_too: bool) {
        let mut paused = self.writer("--events", u64::MAX / 2);
        std::thread::sleep(life(step));
        signal(&paused, Signal::SIGSTOP);
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.state(), copy.path());
        self.states.push(copy);
        let mut successor = self.writer("--more", 500);
        if broker_too {
            std::thread::sleep(life(step + 1));
            self.brokers.kill_one();
            self.brokers.wait_until_ready();
        }
        // It has to lead before the other wakes up.
        assert_eq!(wait(&mut successor, Duration::from_secs(300)), Some(0));
        signal(&paused, Signal::SIGCONT);
        let code = wait(&mut paused, NOTICE);
        assert_eq!(
            code,
            Some(STEPPED_DOWN),
            "a leader that woke up must see that another leads"
        );
    }

    fn run_to_the_end(&mut self, events: u64) {
        let mut last = self.writer("--events", events);
        assert_eq!(
            wait(&mut last, Duration::from_secs(600)),
            Some(0),
            "the last writer mirrors everything"
        );
    }

    fn writer(&self, how: &str, events: u64) -> Child {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary("wattle-stream").unwrap())
            .args([
                "write",
                "--rate",
                "5000",
                "--brokers",
                &self.brokers.addresses().join(","),
            ])
            .args([how, &events.to_string(), "--state"])
            .arg(self.state())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// What both judges say, who must be content.
    fn judge(&self, events: u64) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../kafka/judge.py");
        let judged = Command::new("python3")
            .args([
                script,
                "--brokers",
                &self.brokers.addresses().join(","),
                "--topic",
                TOPIC,
            ])
            .args(["--last", &events.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(
            judged.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&judged.stderr)
        );
        let verdict: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(verdict["events"], events);
        assert!(
            verdict["partitions"].as_u64().unwrap() > 1,
            "several partitions were used"
        );

        let kafka = Kafka {
            brokers: self.brokers.addresses(),
            ..Kafka::plaintext("")
        };
        let found = block_on(async {
            let source = Source::find(kafka).await.unwrap();
            verify(&source).await.unwrap()
        });
        assert!(found.is_whole(), "{found:#?}");
        assert!(found.state_checked > 20, "{found:#?}");
        assert_eq!(
            (found.first_seq, found.last_seq, found.seen),
            (1, events, events)
        );
        format!("judge: {said}verify: {found:?}")
    }
}

/// How long a writer lives: it takes some hundred milliseconds to take over.
fn life(step: u64) -> Duration {
    Duration::from_millis(400 + step * 7_919 % 23 * 60)
}

fn signal(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
}

/// The exit code; kills what does not end.
fn wait(process: &mut Child, patience: Duration) -> Option<i32> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            process.kill().unwrap();
            process.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process is stopped, so the files do not change meanwhile; locks do not go with copies.
fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
