//! Text inside the quotes of other languages. Names of nodes are plain, but a version or a label from elsewhere need not be.

/// Inside double quotes of Graphviz: quotes and backslashes are literal, line ends break the label's line.
pub(super) fn dot(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted
}

/// Inside double quotes of Mermaid, which knows entities by `#`.
pub(super) fn mermaid(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("#quot;"),
            '#' => quoted.push_str("#35;"),
            '<' => quoted.push_str("#lt;"),
            '>' => quoted.push_str("#gt;"),
            '&' => quoted.push_str("#amp;"),
            '`' => quoted.push_str("#96;"),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted
}

/// Text or an attribute's value of XML; characters that XML 1.0 cannot hold become U+FFFD.
pub(super) fn xml(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => quoted.push_str("&amp;"),
            '<' => quoted.push_str("&lt;"),
            '>' => quoted.push_str("&gt;"),
            '"' => quoted.push_str("&quot;"),
            '\'' => quoted.push_str("&apos;"),
            '\n' => quoted.push_str("&#10;"),
            '\t' => quoted.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted
}

/// A string of Cypher, with its quotes.
pub(super) fn cypher(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("\\'"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\"b'c<d>&\\e\nf\u{1b}#`";

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(dot(HOSTILE), "a\\\"b'c<d>&\\\\e\\nf\u{fffd}#`");
        assert_eq!(mermaid(HOSTILE), "a#quot;b'c#lt;d#gt;#amp;\\e f #35;#96;");
        assert_eq!(
            xml(HOSTILE),
            "a&quot;b&apos;c&lt;d&gt;&amp;\\e&#10;f\u{fffd}#`"
        );
        assert_eq!(cypher(HOSTILE), "'a\"b\\'c<d>&\\\\e\\nf\\u001b#`'");
    }
}
