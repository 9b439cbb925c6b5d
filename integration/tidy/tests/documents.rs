//! Documents and code say the same: links resolve, cited sections exist, every setting and verb has its line.

use std::collections::BTreeSet;
use std::path::Path;

use wattle_tidy::{Source, no_complaints, read, root, sources};

#[test]
fn links_in_documents_resolve() {
    let mut complaints = Vec::new();
    for file in documents() {
        for (place, line) in prose(&file) {
            for target in link_targets(line) {
                if let Err(reason) = resolve(&file, target) {
                    complaints.push(format!("{place}: {target}: {reason}"));
                }
            }
        }
    }
    no_complaints("dead links:", &complaints);
}

#[test]
fn sections_that_the_code_cites_exist() {
    let mut complaints = Vec::new();
    for file in sources(&[".rs"]) {
        for (place, line) in file.lines() {
            for (document, section) in citations(line) {
                if let Err(reason) = find_section(document, section) {
                    complaints.push(format!("{place}: {document}: {reason}"));
                }
            }
        }
    }
    no_complaints("citations without a section:", &complaints);
}

#[test]
fn every_setting_of_the_agent_has_its_row_and_every_row_its_setting() {
    let code = read("agent/daemon/src/config.rs");
    let settings = struct_fields(&code, "pub struct Config {");
    let rows = first_cells(&read("docs/reference/config.md"), "## The agent");
    assert_eq!(
        settings, rows,
        "left: struct Config; right: the table in docs/reference/config.md"
    );
}

#[test]
fn verbs_in_documents_are_verbs_of_the_command_line() {
    let verbs: BTreeSet<_> = first_cells(&read("docs/reference/cli.md"), "## Verbs");
    assert!(
        verbs.len() > 10,
        "the table of verbs in docs/reference/cli.md was not understood"
    );
    let mut complaints = Vec::new();
    for file in documents() {
        for (place, line) in file.lines() {
            for verb in verbs_named(line) {
                if !verbs.contains(verb) {
                    complaints.push(format!("{place}: wattle {verb}"));
                }
            }
        }
    }
    no_complaints("docs/reference/cli.md knows no such verb:", &complaints);
}

fn documents() -> Vec<Source> {
    sources(&[".md"])
}

/// Lines outside fenced blocks: what is shown as code holds no links.
fn prose(file: &Source) -> Vec<(String, &str)> {
    let mut fenced = false;
    let outside = file.lines().filter(|(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    outside.collect()
}

fn link_targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .collect()
}

fn resolve(file: &Source, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(&file.path)
        .parent()
        .expect("a file lies in a folder");
    let full = if path.is_empty() {
        root().join(&file.path)
    } else {
        root().join(folder).join(path)
    };
    if !full.exists() {
        return Err("no such file".to_owned());
    }
    if anchor.is_empty() || full.extension().is_none_or(|ending| ending != "md") {
        return Ok(());
    }
    let text = std::fs::read_to_string(&full).map_err(|error| error.to_string())?;
    let headings: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(slug)
        .collect();
    if headings.iter().any(|heading| heading == anchor) {
        Ok(())
    } else {
        Err(format!("no heading #{anchor}"))
    }
}

/// Makes a heading's anchor as code hosts do: lower case, spaces to dashes, other marks dropped.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Finds the path of a document and a section number that follows it.
fn citations(line: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find("docs/") {
        rest = &rest[start..];
        let Some(end) = rest.find(".md") else { break };
        let (document, after) = rest.split_at(end + 3);
        if document.contains(char::is_whitespace) {
            rest = &rest[5..];
            continue;
        }
        let section = after.trim_start_matches(['`', ' ', ',']).strip_prefix('§');
        let number = section.map(|text| {
            text.split(|c: char| !c.is_ascii_digit() && c != '.')
                .next()
                .unwrap_or_default()
                .trim_matches('.')
        });
        found.push((document, number));
        rest = after;
    }
    found
}

fn find_section(document: &str, section: Option<&str>) -> Result<(), String> {
    let text =
        std::fs::read_to_string(root().join(document)).map_err(|_| "no such file".to_owned())?;
    let Some(section) = section else {
        return Ok(());
    };
    let wanted = |line: &str| {
        let title = line.trim_start_matches('#').trim();
        title
            .split([' ', '.'])
            .collect::<Vec<_>>()
            .join(".")
            .starts_with(&format!("{section}."))
    };
    if text
        .lines()
        .any(|line| line.starts_with('#') && wanted(line))
    {
        Ok(())
    } else {
        Err(format!("no section {section}"))
    }
}

fn struct_fields(code: &str, opening: &str) -> BTreeSet<String> {
    let body = code
        .split_once(opening)
        .expect("the struct is there")
        .1
        .split_once("\n}")
        .expect("and ends")
        .0;
    let fields = body.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("pub ")?
            .split_once(':')
            .map(|(name, _)| name.to_owned())
    });
    fields.collect()
}

/// Collects the code word of each row's first cell, in the section below `heading`.
fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let section = text
        .split_once(heading)
        .unwrap_or_else(|| panic!("no section `{heading}`"))
        .1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let words = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', ' ']).next());
    words.map(str::to_owned).collect()
}

/// Finds the word after `wattle` where it is shown as something to type.
fn verbs_named(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("wattle ") {
        let before = line[..at].trim_end_matches("sudo ").chars().last();
        let typed = matches!(before, Some('`' | '$' | '#'))
            || (line[..at].trim().is_empty() && line.starts_with(' '));
        let word = line[at + 7..]
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .next()
            .unwrap_or_default();
        if typed && word.starts_with(|c: char| c.is_ascii_lowercase()) {
            found.push(word);
        }
    }
    found
}
