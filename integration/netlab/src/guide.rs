//! The consumers' guide, `docs/consumers.md`: the blocks that tests run as they stand there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// What the guide calls a broker and a network's topics.
const NAMES: [&str; 2] = ["kafka-1:9092", "wattle.home"];

/// Languages that a test runs: a mark before a block in another would promise too much.
const LANGUAGES: [&str; 6] = ["sh", "python", "promql", "sql", "json", "cypher"];

/// A block of the guide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What its fence names: `sh`, `sql`, ...
    pub language: String,
    /// What stands in it.
    pub text: String,
}

/// The blocks in these languages that stand behind a line `<!-- tested: NAME -->`, by that name. The guide's broker and
/// prefix of topics are replaced by these.
pub fn tested_blocks(
    languages: &[&str],
    broker: &str,
    prefix: &str,
) -> Result<BTreeMap<String, Block>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/consumers.md");
    let guide = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut blocks = BTreeMap::new();
    for marked in guide.split("<!-- tested: ").skip(1) {
        let (name, mut block) =
            parse(marked).with_context(|| format!("no block behind the mark {marked:.40}"))?;
        ensure!(
            LANGUAGES.contains(&block.language.as_str()),
            "no test runs {name}: {}",
            block.language
        );
        if languages.contains(&block.language.as_str()) {
            for (theirs, ours) in NAMES.into_iter().zip([broker, prefix]) {
                block.text = block.text.replace(theirs, ours);
            }
            blocks.insert(name, block);
        }
    }
    Ok(blocks)
}

/// Name and block of a text that begins with the name in a mark.
fn parse(marked: &str) -> Option<(String, Block)> {
    let (name, rest) = marked.split_once(" -->\n```")?;
    let (language, rest) = rest.split_once('\n')?;
    let (text, _) = rest.split_once("\n```")?;
    let block = Block {
        language: language.to_owned(),
        text: text.to_owned(),
    };
    Some((name.to_owned(), block))
}
