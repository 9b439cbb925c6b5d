//! A disk that can be filled.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A small disk, which goes with the test.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn of_megabytes(size: u32) -> Self {
        let disk = Self(
            tempfile::Builder::new()
                .prefix("wl-disk-")
                .tempdir()
                .unwrap(),
        );
        let size = format!("size={size}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "wl-disk"])
            .arg(disk.0.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a tmpfs takes root");
        disk
    }

    /// A directory on it, which is not there yet.
    pub(crate) fn directory(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        let block = [0; 4_096];
        while ballast.write_all(&block).is_ok() {}
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.path().display());
        }
    }
}
