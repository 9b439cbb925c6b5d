//! How well this host is, as far as transit through it is concerned.
//!
//! CPU: the share of time in which the data thread runs or waits for a CPU, and how long it waits each time, by the
//! kernel's own accounting (`Documentation/scheduler/sched-stats.rst`): a busy machine whose data thread is served at once
//! is well, and one that lets a thread with little to do wait is not. Memory: the share of time in which everything waits
//! for it (`Documentation/accounting/psi.rst`). What it costs is routing's business.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use wattle_model::Prefix;

/// Reported load is a multiple of this, so that noise does not become news.
const STEP: f64 = 10.0;
/// Weight of the newest look, one every second: what is worse counts soon, before packets get lost, …
const NEWEST_WORSE: f64 = 0.7;
/// … and what is better after some seconds.
const NEWEST_BETTER: f64 = 0.2;
/// Who waits so long for a CPU each time is half loaded, and to nine tenths at nine times as long: what transit costs then
/// is about what packets wait.
const HALF_LOADED_NS: f64 = 1_000_000.0;

/// Where the kernel tells how much waits for memory.
const PRESSURE_FILE: &str = "/proc/pressure/memory";

/// Watches the load of the host.
#[derive(Debug, Default)]
pub(crate) struct LoadWatch {
    last: Option<Look>,
    cpu: f64,
    memory: MemoryWatch,
}

/// Watches the pressure on memory, and says once that it cannot.
#[derive(Debug, Default)]
struct MemoryWatch {
    complained: bool,
}

/// The data thread's account as of some moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    thread: Account,
}

/// What the kernel counts of a thread, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    ran_ns: u64,
    waited_ns: u64,
    /// How often it was given a CPU.
    turns: u64,
}

impl Account {
    /// The load in percent since `before`, which was `passed_ns` ago.
    fn load(self, before: Self, passed_ns: f64) -> f64 {
        let ran = self.ran_ns.saturating_sub(before.ran_ns) as f64;
        let waited = self.waited_ns.saturating_sub(before.waited_ns) as f64;
        let turns = self.turns.saturating_sub(before.turns).max(1) as f64;
        let wait = waited / turns;
        let busy = ((ran + waited) / passed_ns.max(1.0)).min(1.0);
        busy.max(wait / (wait + HALF_LOADED_NS)) * 100.0
    }
}

impl LoadWatch {
    /// The load in percent: the worst of CPU, of the packet queue, which is so full in percent, and of memory.
    pub(crate) fn percent(&mut self, queue: u8) -> u8 {
        let look = data_thread().map(|thread| Look {
            at: Instant::now(),
            thread,
        });
        if let (Some(last), Some(look)) = (self.last, look) {
            let passed = look.at.duration_since(last.at).as_nanos() as f64;
            let change = look.thread.load(last.thread, passed) - self.cpu;
            let weight = match change > 0.0 {
                true => NEWEST_WORSE,
                false => NEWEST_BETTER,
            };
            self.cpu += weight * change;
        }
        self.last = look;
        let memory = self.memory.percent(Path::new(PRESSURE_FILE));
        worst(self.cpu, memory, queue)
    }
}

impl MemoryWatch {
    fn percent(&mut self, file: &Path) -> f64 {
        match memory_pressure(file) {
            Ok(percent) => percent,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    let file = file.display();
                    tracing::warn!(%file, %error, "Memory pressure does not count in this node's health: it cannot be read");
                }
                0.0
            }
        }
    }
}

/// The kernel's setting that keeps packets from being forwarded to `prefix`, if it is off; a node with networks behind it
/// needs it, as its kernel carries packets between them and the device.
pub(crate) fn forwarding_that_is_off(prefix: &Prefix) -> Option<&'static str> {
    let setting = match prefix.is_ipv6() {
        true => "net.ipv6.conf.all.forwarding",
        false => "net.ipv4.ip_forward",
    };
    let file = Path::new("/proc/sys").join(setting.replace('.', "/"));
    let value = fs::read_to_string(file).ok()?;
    (value.trim() == "0").then_some(setting)
}

/// The load of a node by what it has least of, in percent each.
fn worst(cpu: f64, memory: f64, queue: u8) -> u8 {
    rounded(cpu.max(memory).max(queue.into()))
}

fn rounded(percent: f64) -> u8 {
    ((percent.clamp(0.0, 100.0) / STEP).round() * STEP) as u8
}

/// The account of the data thread; `None` where the kernel keeps none.
fn data_thread() -> Option<Account> {
    let mut tasks = fs::read_dir("/proc/self/task")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let is_data = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm"))
            .is_ok_and(|name| name.trim() == crate::data_thread::NAME)
    };
    parse_schedstat(&fs::read_to_string(tasks.find(is_data)?.join("schedstat")).ok()?)
}

fn parse_schedstat(text: &str) -> Option<Account> {
    let mut fields = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next()?.ok();
    Some(Account {
        ran_ns: next()?,
        waited_ns: next()?,
        turns: next()?,
    })
}

fn memory_pressure(file: &Path) -> io::Result<f64> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "it has no line `full`");
    parse_pressure(&fs::read_to_string(file)?).ok_or_else(unknown)
}

fn parse_pressure(text: &str) -> Option<f64> {
    let full = text.lines().find_map(|line| line.strip_prefix("full "))?;
    full.split(' ')
        .find_map(|field| field.strip_prefix("avg10="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let account = Account {
            ran_ns: 700,
            waited_ns: 50,
            turns: 3,
        };
        assert_eq!(parse_schedstat("700 50 3\n"), Some(account));
        assert_eq!(parse_schedstat("700 50\n"), None);
        let text = "some avg10=90.00 avg60=42.50 total=1\nfull avg10=7.00 avg60=0.00 total=0\n";
        assert_eq!(parse_pressure(text), Some(7.0));
        assert_eq!(parse_pressure(""), None);
    }

    /// Output: the load after a second in which the thread ran, waited (both in ms) and was given a CPU so often.
    fn load(ran: u64, waited: u64, turns: u64) -> u64 {
        let account = |ran, waited, turns| Account {
            ran_ns: ran * 1_000_000,
            waited_ns: waited * 1_000_000,
            turns,
        };
        let before = account(70, 80, 90);
        account(ran + 70, waited + 80, turns + 90)
            .load(before, 1e9)
            .round() as u64
    }

    #[test]
    fn a_thread_that_has_work_all_the_time_or_waits_long_each_time_is_loaded() {
        for (what, ran, waited, turns, percent) in [
            ("idle", 0, 0, 0, 0),
            ("served at once", 100, 1, 1_000, 10),
            ("all that one CPU gives", 950, 20, 5_000, 97),
            ("a few turns, each in a queue", 10, 300, 100, 75),
            ("hardly ever given a CPU", 2, 900, 10, 99),
        ] {
            assert_eq!(load(ran, waited, turns), percent, "{what}");
        }
    }

    #[test]
    fn a_pressure_that_cannot_be_read_is_said_once() {
        let directory = tempfile::tempdir().unwrap();
        let (file, log) = (
            directory.path().join("memory"),
            directory.path().join("log"),
        );
        let lines = std::sync::Mutex::new(fs::File::create(&log).unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(lines).finish();
        let mut watch = MemoryWatch::default();
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!((watch.percent(&file), watch.percent(&file)), (0.0, 0.0));
        });
        let said = fs::read_to_string(log).unwrap();
        assert_eq!(said.matches("Memory pressure").count(), 1, "{said}");
        fs::write(&file, "full avg10=7.00 avg60=0.00 total=0\n").unwrap();
        assert_eq!(watch.percent(&file), 7.0, "it may come later");
    }

    /// `ProcSubset=pid` would hide everything but processes.
    #[test]
    fn the_packaged_service_sees_what_the_agent_reads() {
        let unit = include_str!("../../../packaging/systemd/wattled.service");
        assert!(unit.contains("ExecStart=/usr/bin/wattled"));
        assert!(!unit.lines().any(|line| line.starts_with("ProcSubset")));
    }

    /// Input: CPU, memory, queue, each in percent. Output: the load, and what transit costs for it.
    #[test]
    fn whichever_is_scarcest_makes_transit_dear() {
        for (cpu, memory, queue, load, transit) in [
            (10.0, 20.0, 30, 30, 0),
            (90.0, 0.0, 0, 90, 12_800),
            (0.0, 90.0, 0, 90, 12_800),
            (0.0, 0.0, 90, 90, 12_800),
            (0.0, 0.0, 100, 100, 20_000),
        ] {
            let told = worst(cpu, memory, queue);
            let health = wattle_routing::Health {
                load: told,
                ..Default::default()
            };
            let price = health.transit_cost().micros();
            assert_eq!((told, price), (load, transit), "{cpu} {memory} {queue}");
        }
        assert!(LoadWatch::default().percent(93) >= 90, "the queue counts");
    }

    #[test]
    fn load_moves_in_steps() {
        assert_eq!(
            (rounded(3.0), rounded(42.5), rounded(99.0), rounded(400.0)),
            (0, 40, 100, 100)
        );
    }
}
