//! Text for a terminal: lines of a width, and nothing in them that a terminal would obey.
//!
//! What a report quotes was written by an attacker as often as not: file and task names are his.

use crate::model::time::Timestamp;

/// `text` without control characters, and without those that turn the reading direction.
pub fn harmless(text: &str) -> String {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if obeyed(c) { '?' } else { c }).collect()
}

/// `text` in lines of at most `width` characters, broken between words; a longer word is broken in itself.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in harmless(text).split(' ').filter(|word| !word.is_empty()) {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        while rest.len() > width {
            lines.push(rest.drain(..width).collect());
        }
        used += rest.len();
        line.extend(rest);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// `at` for people.
pub fn shown(at: Timestamp) -> String {
    at.strftime("%a %d %b %Y %H:%M UTC").to_string()
}

/// One row of a table: each cell wrapped in its width, one space between two, no blanks at the end.
pub fn columns<const N: usize>(widths: [usize; N], cells: [String; N]) -> String {
    let cells: Vec<(usize, Vec<String>)> = widths.iter().zip(cells).map(|(width, cell)| (*width, wrap(&cell, *width))).collect();
    let mut row = String::new();
    for number in 0..cells.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0) {
        let line: Vec<String> =
            cells.iter().map(|(width, lines)| format!("{:width$}", lines.get(number).map_or("", String::as_str))).collect();
        row.push_str(line.join(" ").trim_end());
        row.push('\n');
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_to_their_width() {
        for (text, width, lines) in [
            ("", 5, vec![""]),
            ("one two", 7, vec!["one two"]),
            ("one two", 6, vec!["one", "two"]),
            ("one  two", 3, vec!["one", "two"]),
            ("abcdefgh ij", 3, vec!["abc", "def", "gh", "ij"]),
            ("a abcdef", 3, vec!["a", "abc", "def"]),
            ("ääää öö", 4, vec!["ääää", "öö"]),
        ] {
            assert_eq!(wrap(text, width), lines, "{text:?} in {width}");
        }
    }

    #[test]
    fn a_terminal_obeys_nothing() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc\u{202e}d"), "a?[2Jb?c?d");
    }
}
