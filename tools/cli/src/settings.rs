//! `wattled.toml` of a node with the prefixes that it is to announce: other settings and comments stay as they are.
//!
//! Reads files and writes none: whoever joins stores the text once it counts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, value};
use wattle_agent::config::{CONFIG_FILE, Config, SYSTEM_CONFIG};
use wattle_model::Prefix;

use crate::failure::{Exit, Failure, Outcome};

const KEY: &str = "prefixes";

/// A configuration to be stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Its text.
    pub(crate) text: String,
    /// The file whose settings it has taken over, if that is another than the one it will be.
    pub(crate) copied_from: Option<PathBuf>,
}

/// The configuration of the state directory, which announces `prefixes` besides what it announces already. The agent
/// reads one file alone, so where the directory has none yet it begins as a copy of the system's.
pub(crate) fn announcing(state: &Path, prefixes: &[Prefix]) -> Outcome<Settings> {
    announcing_over(state, Path::new(SYSTEM_CONFIG), prefixes)
}

fn announcing_over(state: &Path, system: &Path, prefixes: &[Prefix]) -> Outcome<Settings> {
    let own = state.join(CONFIG_FILE);
    if let Some(text) = read(&own)? {
        let text = announce(&own, &text, prefixes)?;
        return Ok(Settings {
            text,
            copied_from: None,
        });
    }
    let found = read(system)?;
    let text = announce(system, found.as_deref().unwrap_or_default(), prefixes)?;
    Ok(Settings {
        text,
        copied_from: found.map(|_| system.to_owned()),
    })
}

fn read(path: &Path) -> Outcome<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let what = format!("cannot read {}", path.display());
            Err(Failure::file(what, &error, "wattled --check-config"))
        }
    }
}

fn announce(path: &Path, text: &str, prefixes: &[Prefix]) -> Outcome<String> {
    let refused = |why: &dyn std::fmt::Display| {
        let what = "the agent would refuse its settings";
        Failure::new(Exit::Usage, what, why, "correct them, then join")
    };
    let config = Config::parse(text, path).map_err(|error| refused(&error))?;
    let mut document: DocumentMut = text.parse().map_err(|error| refused(&error))?;
    let missing = prefixes.iter().filter(|p| !config.prefixes.contains(p));
    let list = document.entry(KEY).or_insert_with(|| value(Array::new()));
    let list = list.as_array_mut().expect("the agent takes a list alone");
    list.extend(missing.map(ToString::to_string));
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Input: files of the state directory and the system. Output: what is to be stored, and its announced prefixes.
    fn announced(own: Option<&str>, system: Option<&str>) -> (Settings, Vec<Prefix>) {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("system.toml");
        for (path, text) in [
            (home.path().join(CONFIG_FILE), own),
            (other.clone(), system),
        ] {
            if let Some(text) = text {
                std::fs::write(path, text).unwrap();
            }
        }
        let wanted = prefixes(&["10.1.0.0/16", "fd01::/48"]);
        let settings = announcing_over(home.path(), &other, &wanted).unwrap();
        let config = Config::parse(&settings.text, Path::new("x")).unwrap();
        (settings, config.prefixes)
    }

    #[test]
    fn a_node_without_settings_gets_a_file_that_announces() {
        let (settings, announced) = announced(None, None);
        assert_eq!(announced, prefixes(&["10.1.0.0/16", "fd01::/48"]));
        assert_eq!(settings.copied_from, None);
    }

    #[test]
    fn other_settings_and_comments_stay_and_nothing_is_announced_twice() {
        let text = "# mine\nmtu = 1300 # small\nprefixes = [\"10.9.0.0/16\", \"10.1.0.0/16\"]\nlog = \"warn\"\n";
        let (settings, announced) = announced(Some(text), Some("mtu = 1400"));
        assert_eq!(
            announced,
            prefixes(&["10.9.0.0/16", "10.1.0.0/16", "fd01::/48"])
        );
        for kept in ["# mine", "mtu = 1300 # small", "log = \"warn\""] {
            assert!(settings.text.contains(kept), "{}", settings.text);
        }
    }

    #[test]
    fn the_system_s_settings_are_taken_over_since_the_agent_reads_one_file() {
        let (settings, announced) = announced(None, Some("# all\n#mtu = 1\nlog = \"warn\"\n"));
        assert_eq!(announced.len(), 2);
        assert!(settings.text.contains("log = \"warn\"") && settings.text.contains("#mtu = 1"));
        assert!(settings.copied_from.is_some());
    }

    #[test]
    fn settings_that_the_agent_refuses_are_not_edited() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(CONFIG_FILE), "mtu = 1\n").unwrap();
        let failure = announcing(home.path(), &prefixes(&["10.1.0.0/16"])).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.why.contains("wattled.toml:1:7"), "{}", failure.why);
    }
}
