//! YAML of plans, scenarios, clusters of the simulator and CRDs.
//!
//! Reading is strict: no key twice in one mapping, booleans of YAML 1.2 only, and a text that looks like a number or a boolean
//! must be quoted. An error names the field, the line and the column. Writing quotes what a YAML 1.1 reader would not read as
//! a text.

use serde::{Serialize, de::DeserializeOwned};

/// Why a text is not the YAML of a type.
#[derive(Debug)]
pub struct ReadError {
    /// The path of the field; `None` for the whole document.
    field: Option<String>,
    error: Box<serde_saphyr::Error>,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        match &self.field {
            Some(field) => write!(f, "{field}: {message}"),
            None => f.write_str(&message),
        }
    }
}

impl std::error::Error for ReadError {}

/// Why a value can't be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("failed to write YAML: {0}")]
pub struct WriteError(#[from] serde_saphyr::SerializeError);

fn strict() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, no_schema: true, with_snippet: false }
}

/// Reads one document. A text without content is an empty mapping, whose error names the missing field.
///
/// # Errors
/// [`ReadError`] with the field, the line and the column.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, ReadError> {
    let is_empty = text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'));
    let text = if is_empty { "{}" } else { text };
    let mut field = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, strict(), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            field = (path != ".").then_some(path);
            error.into_inner()
        })
    });
    read.map_err(|error| ReadError { field, error: Box::new(error) })
}

/// Reads all documents of a text.
///
/// # Errors
/// [`ReadError`] with the line and the column.
pub fn read_all<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, ReadError> {
    let read = serde_saphyr::from_multiple_with_options(text, strict());
    read.map_err(|error| ReadError { field: None, error: Box::new(error) })
}

/// Writes one document.
///
/// # Errors
/// [`WriteError`].
pub fn write<T: Serialize>(value: &T) -> Result<String, WriteError> {
    Ok(serde_saphyr::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        text: String,
        #[serde(default)]
        flag: bool,
        #[serde(default)]
        number: i64,
    }

    type Document = BTreeMap<String, Vec<Inner>>;

    #[test]
    fn an_error_names_the_field_the_line_and_the_column() {
        for (text, words) in [
            ("a:\n- text: x\n  flg: true\n", "a[0].flg: unknown field `flg`"),
            ("a:\n- text: x\n  number: y\n", "a[0].number: "),
            ("a:\n- number: 1\n  flag: false\n", "a[0]: missing field `text`"),
            ("a:\n- text: x\n  text: y\n", "duplicate mapping key `text`"),
            ("a:\n- text: 1\n  flag: false\n", "a[0].text: "),
            ("a:\n- text: true\n  flag: false\n", "a[0].text: "),
            ("a:\n- text: x\n  flag: yes\n", "a[0].flag: "),
        ] {
            let error = read::<Document>(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(["line 2", "line 3"].iter().any(|line| error.contains(line)), "{text}: {error}");
            assert!(error.contains("column") && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_reads_as_it_was_written_and_a_reader_of_yaml_1_1_reads_the_same() {
        let texts = [
            "yes", "n", "off", "1_000", "0x1f", "1:30", "~", "", " a", "a: b", "# c", "x\ny\n", "é\u{7}",
            "- -",
        ];
        let one = |text: &&str| Inner { text: (*text).to_owned(), flag: true, number: -1 };
        let document = Document::from([("on".to_owned(), texts.iter().map(one).collect())]);
        let written = write(&document).unwrap();
        assert_eq!(read::<Document>(&written).unwrap(), document, "{written}");
        for plain in ["text: yes", "text: n\n", "text: off", "text: 1_000", "text: 1:30"] {
            assert!(!written.contains(plain), "{written}");
        }
    }

    #[test]
    fn a_text_may_have_several_documents() {
        let all: Vec<Option<Inner>> = read_all("---\ntext: a\n---\n---\ntext: b\n").unwrap();
        let texts: Vec<String> = all.into_iter().flatten().map(|inner| inner.text).collect();
        assert_eq!(texts, ["a", "b"]);
        assert!(read::<Inner>("text: a\n---\ntext: b\n").is_err());
    }
}
