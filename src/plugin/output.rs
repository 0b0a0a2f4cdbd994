//! Where results go: the format that the user chose, and the terminal or pipe.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::table::{clean, escaped_json, has_unsafe};
use crate::{
    client::{Error, Kind, Result},
    yaml,
};

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// All that the server says, as JSON
    Json,
    /// The same as YAML
    Yaml,
    /// Only names, one a line
    Name,
    /// Comma-separated values (of `usage`)
    Csv,
}

/// The code of an error whose reader has gone: nothing is printed about it.
pub const CLOSED: &str = "output_closed";

/// The terminal or pipes of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal {
    /// Whether standard output has colors.
    pub color: bool,
    /// Whether standard error is a terminal, where progress is shown.
    pub progress: bool,
}

impl Terminal {
    /// That of the process: colors on a terminal, unless `NO_COLOR` is set (no-color.org) or the terminal has none.
    #[must_use]
    pub fn of_process() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb;
        Self { color, progress: io::stderr().is_terminal() && !is_dumb }
    }

    /// Prints bytes as they are, and sees to it that they are seen.
    ///
    /// # Errors
    /// The output is closed, or its disk is full.
    pub fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = out.write_all(bytes).and_then(|()| out.flush());
        written.map_err(|error| {
            let is_closed = error.kind() == io::ErrorKind::BrokenPipe;
            let mut failed = Error::new(Kind::Failed, format!("failed to write the output: {error}"));
            failed.code = is_closed.then(|| CLOSED.to_owned());
            failed
        })
    }

    /// Prints a text.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn print(self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints a remark on standard error, where it is no part of the result.
    pub fn remark(self, text: &str) {
        // Without a standard error there is no one to read it.
        drop(writeln!(io::stderr().lock(), "{}", clean(text)));
    }
}

/// A result as JSON or YAML; `None` for the formats that are for people.
///
/// # Errors
/// It can't be written in that form.
pub fn structured(format: Format, value: &impl Serialize) -> Result<Option<String>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Failed, format!("failed to write the result: {error}"))
    };
    let json = || {
        let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
        Ok(format!("{}\n", escaped_json(&text)))
    };
    match format {
        Format::Json => json().map(Some),
        Format::Yaml => {
            // By way of JSON, whose maps have the order of the fields.
            let value = serde_json::to_value(value).map_err(|error| failed(&error))?;
            let text = yaml::write(&value).map_err(|error| failed(&error))?;
            // JSON is YAML, and can escape what may command a terminal.
            if has_unsafe(&text) { json().map(Some) } else { Ok(Some(with_line_break(text))) }
        }
        Format::Csv => {
            Err(Error::usage("failed to write the result: only usage is written as csv").next("usage -o csv"))
        }
        Format::Table | Format::Wide | Format::Name => Ok(None),
    }
}

fn with_line_break(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Names for scripts, one a line: `job/render`.
#[must_use]
pub fn names<'a>(kind: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("{kind}/{}\n", clean(name))).collect()
}

/// Reads the name of an object as it is typed, alone or as [`names`] prints it: `render` or `job/render`.
pub fn named(kind: &'static str) -> impl Fn(&str) -> std::result::Result<String, String> + Clone {
    move |text| {
        let name = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
        match name {
            "" => Err(format!("give the name of a {kind}")),
            name => Ok(name.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_yaml_say_the_same_and_neither_commands_a_terminal() {
        let value = json!({"name": "a\u{1b}[2J\u{9b}", "n": 1, "none": null, "list": ["no", "1"]});
        for format in [Format::Json, Format::Yaml] {
            let text = structured(format, &value).unwrap().unwrap();
            assert!(!has_unsafe(&text), "{text:?}");
            assert_eq!(yaml::read::<serde_json::Value>(&text).unwrap(), value, "{text}");
        }
        let plain = structured(Format::Yaml, &json!({"a": {"b": "x"}})).unwrap().unwrap();
        assert_eq!(plain, "a:\n  b: x\n");
    }

    #[test]
    fn only_usage_is_csv() {
        assert_eq!(structured(Format::Csv, &json!({})).unwrap_err().kind, Kind::Usage);
        assert_eq!(structured(Format::Wide, &json!({})).unwrap(), None);
    }

    #[test]
    fn names_are_one_a_line() {
        assert_eq!(names("job", ["a", "b\n\u{1b}c"]), "job/a\njob/b c\n");
        // What one verb prints, another one takes.
        let read = named("job");
        for (typed, expected) in [("a", "a"), ("job/a", "a"), ("jobs", "jobs"), ("tenant/a", "tenant/a")] {
            assert_eq!(read(typed).as_deref(), Ok(expected));
        }
        assert!(read("job/").is_err() && read("").is_err());
    }
}
