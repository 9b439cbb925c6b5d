//! Reads the repository for the tests beside it, which keep layers, sources and documents as the project says they are.
//!
//! Knows no other crate: everything it compares is read from files and from `cargo metadata`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that hold nothing of ours.
const NOT_OURS: [&str; 4] = ["target", ".git", "dist", "node_modules"];

/// A text file of the repository.
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

impl Source {
    /// Yields each line with `path:number` in front of it, for messages that an editor can follow.
    pub fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(at, line)| (format!("{}:{}", self.path, at + 1), line))
    }
}

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("this crate lies two folders below the root")
}

/// Reads every text file whose path ends with one of `endings`, in order of path.
pub fn sources(endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut |path| {
        let name = path
            .strip_prefix(&root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        if endings.iter().any(|ending| name.ends_with(ending))
            && let Ok(text) = std::fs::read_to_string(path)
        {
            found.push(Source { path: name, text });
        }
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Reads one file of the repository; it must be there.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `cargo metadata` on the workspace's own packages.
pub fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it is there");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Fails with every complaint on a line of its own; silence is success.
#[track_caller]
pub fn no_complaints(rule: &str, complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{rule}\n  {}\n",
        complaints.join("\n  ")
    );
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_symlink() || NOT_OURS.iter().any(|other| name == *other) {
            continue;
        }
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}
