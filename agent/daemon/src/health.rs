//! How well this host is, as far as transit through it is concerned.
//!
//! CPU: the share of time in which the data thread runs or waits for a CPU, by the kernel's own accounting
//! (`Documentation/scheduler/sched-stats.rst`): a busy machine whose data thread is served at once is well. Memory: the
//! share of time in which everything waits for it (`Documentation/accounting/psi.rst`). What it costs is routing's business.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use wattle_model::Prefix;

/// Reported load is a multiple of this, so that noise does not become news.
const STEP: f64 = 10.0;
/// Weight of the newest look in the moving average: with a look every second, about three seconds count.
const NEWEST: f64 = 0.35;

/// Where the kernel tells how much waits for memory.
const PRESSURE_FILE: &str = "/proc/pressure/memory";

/// Watches the load of the host.
#[derive(Debug, Default)]
pub(crate) struct LoadWatch {
    last: Option<Look>,
    busy: f64,
    memory: MemoryWatch,
}

/// Watches the pressure on memory, and says once that it cannot.
#[derive(Debug, Default)]
struct MemoryWatch {
    complained: bool,
}

/// The data thread's time on and in wait for a CPU, as of some moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    wanted_ns: u64,
}

impl LoadWatch {
    /// The load in percent: the worst of CPU, of the packet queue, which is so full in percent, and of memory.
    pub(crate) fn percent(&mut self, queue: u8) -> u8 {
        let look = data_thread_time().map(|wanted_ns| Look {
            at: Instant::now(),
            wanted_ns,
        });
        if let (Some(last), Some(look)) = (self.last, look) {
            let wanted = look.wanted_ns.saturating_sub(last.wanted_ns) as f64;
            let passed = look.at.duration_since(last.at).as_nanos().max(1) as f64;
            self.busy += NEWEST * ((wanted / passed).min(1.0) * 100.0 - self.busy);
        }
        self.last = look;
        let memory = self.memory.percent(Path::new(PRESSURE_FILE));
        rounded(self.busy.max(memory).max(queue.into()))
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

fn rounded(percent: f64) -> u8 {
    ((percent.clamp(0.0, 100.0) / STEP).round() * STEP) as u8
}

/// Nanoseconds that the data thread ran or waited to run; `None` where the kernel does not count them.
fn data_thread_time() -> Option<u64> {
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

fn parse_schedstat(text: &str) -> Option<u64> {
    let mut fields = text.split_whitespace().map(str::parse::<u64>);
    Some(fields.next()?.ok()?.saturating_add(fields.next()?.ok()?))
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
        assert_eq!(parse_schedstat("700 50 3\n"), Some(750));
        assert_eq!(parse_schedstat("x"), None);
        let text = "some avg10=90.00 avg60=42.50 total=1\nfull avg10=7.00 avg60=0.00 total=0\n";
        assert_eq!(parse_pressure(text), Some(7.0));
        assert_eq!(parse_pressure(""), None);
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

    #[test]
    fn load_moves_in_steps() {
        assert_eq!(
            (rounded(3.0), rounded(42.5), rounded(99.0), rounded(400.0)),
            (0, 40, 100, 100)
        );
    }
}
