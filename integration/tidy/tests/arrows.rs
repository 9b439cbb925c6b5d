//! The layers of `docs/architecture.md`: which crate may use which, and what pure crates may not touch.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use wattle_tidy::{metadata, no_complaints, read, root};

/// What a pure crate may not depend on: whatever asks the kernel, the clock or a random source.
const IMPURE: [&str; 23] = [
    "tokio",
    "tokio-util",
    "tokio-stream",
    "tokio-rustls",
    "nix",
    "libc",
    "mio",
    "socket2",
    "quinn",
    "quinn-udp",
    "tun",
    "rtnetlink",
    "netlink-packet-route",
    "rdkafka",
    "sqlx",
    "axum",
    "hyper",
    "hyper-util",
    "rustls",
    "rand",
    "getrandom",
    "chrono",
    "time",
];

struct Room {
    level: u8,
    pure: bool,
    may_use: BTreeSet<String>,
}

#[test]
fn every_arrow_is_in_the_table_and_goes_down() {
    let rooms = table();
    let mut complaints = Vec::new();
    for package in packages() {
        let Some(room) = rooms.get(&package.folder) else {
            complaints.push(format!("{} has no row", package.folder));
            continue;
        };
        for arrow in package.arrows() {
            let Some(target) = rooms.get(&arrow.target) else {
                continue;
            };
            let described = format!(
                "{} (level {}) -> {} (level {})",
                package.folder, room.level, arrow.target, target.level
            );
            if target.level >= room.level {
                complaints.push(format!("{described}: goes up"));
            } else if !arrow.test_only && !room.may_use.contains(&arrow.target) {
                complaints.push(format!("{described}: not in the column `may use`"));
            }
        }
    }
    no_complaints(
        "docs/architecture.md, section Layers, is the law:",
        &complaints,
    );
}

#[test]
fn every_row_is_a_crate() {
    let folders: BTreeSet<_> = packages()
        .into_iter()
        .map(|package| package.folder)
        .collect();
    let rooms = table();
    let named = rooms
        .iter()
        .flat_map(|(folder, room)| room.may_use.iter().chain([folder]));
    let missing: Vec<_> = named
        .filter(|folder| !folders.contains(*folder))
        .cloned()
        .collect();
    no_complaints(
        "rows or arrows of docs/architecture.md that name no crate:",
        &missing,
    );
}

#[test]
fn pure_rooms_depend_on_nothing_that_asks_the_world() {
    let rooms = table();
    let mut complaints = Vec::new();
    for package in packages() {
        if !rooms.get(&package.folder).is_some_and(|room| room.pure) {
            continue;
        }
        for name in package.outside() {
            if IMPURE.contains(&name.as_str()) {
                complaints.push(format!("{} depends on {name}", package.folder));
            }
        }
    }
    no_complaints(
        "pure crates are handed time, randomness and bytes:",
        &complaints,
    );
}

#[test]
fn pure_rooms_share_one_list_of_what_is_disallowed() {
    let pure: Vec<_> = table()
        .into_iter()
        .filter(|(_, room)| room.pure)
        .map(|(folder, _)| folder)
        .collect();
    let model = read("agent/model/clippy.toml");
    assert!(model.contains("std::time::Instant") && model.contains("std::thread::spawn"));
    let differing: Vec<_> = pure
        .into_iter()
        .filter(|folder| {
            std::fs::read_to_string(root().join(folder).join("clippy.toml"))
                .ok()
                .as_ref()
                != Some(&model)
        })
        .collect();
    no_complaints(
        "clippy.toml differs from agent/model/clippy.toml in:",
        &differing,
    );
}

/// Reads the rows `| level | crate | pure | what it is for | may use |`.
fn table() -> BTreeMap<String, Room> {
    let text = read("docs/architecture.md");
    let rooms: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    assert!(
        rooms.len() > 15,
        "the table of layers in docs/architecture.md was not understood: {} rows",
        rooms.len()
    );
    rooms
}

fn row(line: &str) -> Option<(String, Room)> {
    let cells: Vec<_> = line
        .trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let [level, folder, pure, _, may_use] = cells[..] else {
        return None;
    };
    let may_use = may_use
        .split(['`', ',', ' '])
        .filter(|word| word.contains('/'))
        .map(str::to_owned)
        .collect();
    let room = Room {
        level: level.parse().ok()?,
        pure: pure == "pure",
        may_use,
    };
    Some((folder.trim_matches('`').to_owned(), room))
}

struct Package {
    folder: String,
    dependencies: Vec<Value>,
}

struct Arrow {
    target: String,
    test_only: bool,
}

impl Package {
    fn arrows(&self) -> Vec<Arrow> {
        let inside = self.dependencies.iter().filter_map(|dependency| {
            let target = below_root(dependency["path"].as_str()?);
            Some(Arrow {
                target,
                test_only: dependency["kind"] == "dev",
            })
        });
        inside.collect()
    }

    fn outside(&self) -> Vec<String> {
        let outside = self
            .dependencies
            .iter()
            .filter(|dependency| dependency["path"].is_null() && dependency["kind"] != "dev");
        outside
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect()
    }
}

fn packages() -> Vec<Package> {
    let metadata = metadata();
    let packages = metadata["packages"]
        .as_array()
        .expect("cargo metadata lists packages");
    let read = packages.iter().map(|package| Package {
        folder: below_root(package["manifest_path"].as_str().expect("a path"))
            .trim_end_matches("/Cargo.toml")
            .to_owned(),
        dependencies: package["dependencies"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    });
    read.collect()
}

fn below_root(path: &str) -> String {
    let root = root().to_string_lossy().into_owned();
    path.strip_prefix(&root)
        .unwrap_or(path)
        .trim_start_matches('/')
        .to_owned()
}
