//! Tables and texts for people.
//!
//! What users or servers say may come from anyone who may create an object: whatever could command a terminal is removed
//! before it is printed ([`clean`]). Columns are separated by spaces as kubectl's are, so that `awk` reads them.

use comfy_table::{Attribute, Cell as Printed, Color, ContentArrangement, presets};
use jiff::Timestamp;

/// What a cell says by its color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Nothing.
    #[default]
    Plain,
    /// It is as it should be.
    Good,
    /// It waits, or soon needs someone.
    Warn,
    /// It has failed.
    Bad,
}

/// The content of a table's field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: clean(text.as_ref()), style: Style::Plain }
    }
}

impl Cell {
    /// A field with a color.
    #[must_use]
    pub fn styled(text: &str, style: Style) -> Self {
        Self { style, ..Self::from(text) }
    }
}

/// Whether a character may command a terminal, or show other text than there is: control characters (C0, DEL, C1), and those
/// that reorder or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// A text on one line, without what may command a terminal. Line breaks and tabs become spaces.
#[must_use]
pub fn clean(text: &str) -> String {
    let spaced = text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c });
    spaced.filter(|c| !is_unsafe(*c)).collect()
}

/// JSON whose strings have what may command a terminal as escapes, which say the same.
#[must_use]
pub fn escaped_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text += &format!("\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether a text has what may command a terminal, line breaks aside.
#[must_use]
pub fn has_unsafe(text: &str) -> bool {
    text.chars().any(|c| c != '\n' && is_unsafe(c))
}

/// A table as text, with a line break at the end of each line.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<Cell>>, color: bool) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header.iter().map(|name| Printed::new(name).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| {
            let text = if cell.text.is_empty() { "-" } else { &cell.text };
            let printed = Printed::new(text);
            match cell.style {
                Style::Plain => printed,
                Style::Good => printed.fg(Color::Green),
                Style::Warn => printed.fg(Color::Yellow),
                Style::Bad => printed.fg(Color::Red),
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// How long ago or ahead a time is, as kubectl says it: `45s`, `12m`, `5h`, `3d`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago a time is; empty where it is unknown. A time that is ahead, by another clock, is now.
#[must_use]
pub fn age(now: Timestamp, at: Option<Timestamp>) -> String {
    at.map(|at| span(now.duration_since(at).as_secs().max(0))).unwrap_or_default()
}

/// The color of a job's state.
#[must_use]
pub fn of_state(state: &str) -> Style {
    match state {
        "completed" | "running" | "active" | "ready" => Style::Good,
        "failed" | "rejected" | "timed_out" | "stalled" | "expired" | "not_ready" => Style::Bad,
        "queued" | "retrying" | "assigned" | "pending" | "suspended" => Style::Warn,
        _ => Style::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_removed_and_the_text_stays() {
        let attack = "a\u{1b}[2J\u{9b}31m\u{7}b\u{202e}c\nd\u{e0041}é";
        assert_eq!(clean(attack), "a[2J31mbc dé");
        assert!(!has_unsafe(&clean(attack)));
        let shown = table(&["NAME"], vec![vec![attack.into()]], true);
        assert!(!shown.contains("\u{1b}[2J") && shown.contains("a[2J31mbc dé"), "{shown:?}");
    }

    #[test]
    fn json_says_the_same_by_escapes() {
        let value = serde_json::json!({"a": "x\u{9b}\u{7f}\u{202e}\u{e0041}é\u{1b}"});
        let text = escaped_json(&value.to_string());
        assert!(!has_unsafe(&text), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn columns_are_separated_by_spaces_and_lines_have_none_at_their_end() {
        let rows = vec![vec!["a".into(), "long value".into()], vec!["b".into(), "".into()]];
        assert_eq!(table(&["NAME", "X"], rows, false), "NAME   X\na      long value\nb      -\n");
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        let spans = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(span);
        assert_eq!(spans, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        let at = |second| Timestamp::from_second(second).ok();
        assert_eq!(age(at(100).unwrap(), at(200)), "0s");
        assert_eq!(age(at(100).unwrap(), None), "");
    }
}
