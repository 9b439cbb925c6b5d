//! What every source file keeps to: a header, reasons, no place that exists on one machine only.

use wattle_tidy::{Source, no_complaints, sources};

/// Where `unsafe` may be written, each block with its kernel contract.
const UNSAFE_ROOMS: [&str; 3] = ["agent/host/", "integration/netlab/", "integration/bench/"];

#[test]
fn every_file_says_first_what_it_is_for() {
    let without: Vec<_> = rust()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.clone())
        .collect();
    no_complaints("these files do not begin with `//! `:", &without);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let allow = ["#[al", "#![al"].map(|start| format!("{start}low("));
    let found = lines_where(&rust(), |line| {
        allow
            .iter()
            .any(|attribute| line.trim_start().starts_with(attribute))
    });
    no_complaints(
        "write #[expect(lint, reason = \"…\")] instead of allow:",
        &found,
    );
}

#[test]
fn unsafe_lives_in_few_rooms_and_names_its_contract() {
    let mut complaints = Vec::new();
    for file in rust() {
        let may = UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room));
        let lines: Vec<_> = file.lines().collect();
        for (at, (place, line)) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| code.contains(word))
                || code.contains('"')
            {
                continue;
            }
            let told = lines[at.saturating_sub(8)..=at]
                .iter()
                .any(|(_, before)| before.to_uppercase().contains("SAFETY"));
            if !may || !told {
                complaints.push(format!("{place}: {}", line.trim()));
            }
        }
    }
    no_complaints(
        "unsafe belongs to agent/host (and test crates), below a `// SAFETY:` comment:",
        &complaints,
    );
}

#[test]
fn no_text_names_a_place_of_one_machine() {
    let places = ["/wo|rk/", "/ro|ot/", "/var/tmp|/t/", "/var/tmp/wat|tle"]
        .map(|place| place.replace('|', ""));
    let texts = sources(&[
        ".rs",
        ".md",
        ".toml",
        ".sh",
        ".py",
        ".yml",
        ".json",
        ".service",
        "tools/test",
        "tools/demo",
        "tools/bench",
        ".ci/run",
    ]);
    let found = lines_where(&texts, |line| {
        places.iter().any(|place| line.contains(place.as_str()))
    });
    no_complaints(
        "these lines name a path that exists on one machine only:",
        &found,
    );
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = ["TO|DO", "FIX|ME", "XX|X:"].map(|mark| mark.replace('|', ""));
    let found = lines_where(&rust(), |line| {
        marks.iter().any(|mark| line.contains(mark.as_str()))
    });
    no_complaints("file an issue instead:", &found);
}

fn rust() -> Vec<Source> {
    sources(&[".rs"])
}

fn lines_where(files: &[Source], is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = files.iter().flat_map(Source::lines);
    lines
        .filter(|(_, line)| is_bad(line))
        .map(|(place, line)| format!("{place}: {}", line.trim()))
        .collect()
}
