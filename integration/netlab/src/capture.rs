//! Looking at what is on a wire.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::{Host, Process, eventually};

/// Kept of each frame: a super-packet whole.
const SNAP_LENGTH: &str = "65536";
/// The kernel's ring for one capture in KiB: in immediate mode every frame takes a slot of the snap length, so this is
/// a burst of 1024 frames.
const RING_KIB: &str = "65536";

/// A running capture of everything on one interface.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts `tcpdump` on the interface and waits until it listens.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let file = host.directory().join(format!("{interface}.pcap"));
        let mut command = host.command("tcpdump");
        command
            .args([
                "-Z",
                "root",
                "-n",
                "-U",
                "--immediate-mode",
                "-s",
                SNAP_LENGTH,
                "-B",
                RING_KIB,
                "-i",
                interface,
                "-w",
            ])
            .arg(&file);
        let tcpdump = host.spawn(&format!("tcpdump-{interface}"), command)?;
        eventually("a listening tcpdump", Duration::from_secs(10), || {
            Ok(tcpdump.log().contains("listening on"))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture; all bytes of the file, frames with their capture headers. A capture that missed frames proves
    /// nothing and is an error.
    pub fn stop(mut self) -> Result<Vec<u8>> {
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(Duration::from_secs(10))?;
        let log = self.tcpdump.log();
        ensure!(
            log.contains("\n0 packets dropped by kernel"),
            "the capture is not complete: {log}"
        );
        Ok(std::fs::read(&self.file)?)
    }
}

/// How often `needle` occurs in a capture.
pub fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}
