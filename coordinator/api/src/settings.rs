//! What is wrong in a file of settings, and where: line and column, as people count them.
//!
//! Knows no file and no setting; whoever reads one hands in its text.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Something wrong in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was found and what is allowed.
    pub message: String,
    /// The bytes it is about.
    pub span: Range<usize>,
}

impl Complaint {
    /// About a place in the text, or the nearest one before it.
    pub fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.floor_char_boundary(span.end.clamp(start, text.len()));
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            span: start..end,
        }
    }

    /// What the parser says.
    pub fn of_toml(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        Self::at(text, span, error.message().trim().replace('\n', "; "))
    }

    /// About the value of a setting, or the innermost table around it that is there.
    pub fn of_key(text: &str, path: &[&str], message: impl Into<String>) -> Self {
        Self::at(text, span_of(text, path), message)
    }

    /// The line that it is about.
    pub fn excerpt<'a>(&self, text: &'a str) -> &'a str {
        text.lines().nth(self.line - 1).unwrap_or_default()
    }
}

/// The text of a file, if it is one.
pub fn text_of(bytes: &[u8]) -> Result<&str, Complaint> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let end = before.len();
        Complaint::at(&before, end..end, "this byte is not UTF-8 text")
    })
}

fn span_of(text: &str, path: &[&str]) -> Range<usize> {
    let Ok(document) = DeTable::parse(text) else {
        return 0..0;
    };
    let mut span = 0..0;
    let mut table = Some(document.get_ref());
    for name in path {
        let found = table.and_then(|table| {
            let mut entries = table.iter();
            entries.find(|(key, _)| key.get_ref() == name)
        });
        let Some((key, value)) = found else { break };
        // A table's own span is its header or its braces; its key stands where it is named.
        span = match value.get_ref() {
            DeValue::Table(_) => key.span(),
            _ => value.span(),
        };
        table = value.get_ref().as_table();
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "log = \"é\"\n[kafka]\nbrokers = []\n[kafka.tls]\nkey_file = \"k\"\n";

    #[test]
    fn a_setting_is_found_by_its_path_and_a_missing_one_by_its_table() {
        let place = |path: &[&str]| {
            let complaint = Complaint::of_key(TEXT, path, "x");
            (complaint.line, complaint.column)
        };
        assert_eq!(place(&["log"]), (1, 7));
        assert_eq!(place(&["kafka", "brokers"]), (3, 11));
        assert_eq!(place(&["kafka", "sasl"]), (2, 2));
        assert_eq!(place(&["kafka", "tls", "key_file"]), (5, 12));
        assert_eq!(place(&["nothing"]), (1, 1));
    }

    #[test]
    fn a_byte_that_is_no_text_is_named_by_its_place() {
        assert_eq!(text_of(TEXT.as_bytes()), Ok(TEXT));
        let complaint = text_of(b"a = 1\nb = \"\xff\"").unwrap_err();
        assert_eq!((complaint.line, complaint.column), (2, 6));
        assert!(complaint.message.contains("UTF-8"));
    }

    #[test]
    fn a_place_inside_a_character_or_behind_the_end_is_the_one_before() {
        assert_eq!(Complaint::at("é", 1..9, "x").span, 0..2);
        let behind = Complaint::at("a\nb", 99..99, "x");
        assert_eq!((behind.line, behind.column), (2, 2));
        assert_eq!(behind.excerpt("a\nb"), "b");
    }
}
