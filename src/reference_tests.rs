//! The pages of docs/reference: what can be looked up field by field, written from the code that decides it.
//!
//! Descriptions are those of doc comments, schemas, the command line and the chart's alerts, so no page can differ from what
//! they do: a test of each fails until `make reference` has written it again. Facts that another page already has, held to
//! the code by a test of its own (reasons, problems, metrics, values of the chart), stay there alone;
//! docs/reference/README.md leads to all of them.

mod alerts;
mod command_line;
mod files;
mod markdown;
mod resources;
mod rest_api;
mod schema;

use std::{env, fs, path::Path};

/// Asserts that a file, by its path from the root, has this text. With `WRITE_GENERATED` set, writes it first.
pub(crate) fn is_current(file: &str, text: &str, command: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if env::var_os("WRITE_GENERATED").is_some() {
        fs::write(&path, text).unwrap();
    }
    let current = fs::read_to_string(&path).unwrap_or_default();
    assert!(current == text, "{file} is not what the code says: run `{command}`");
}

#[test]
fn the_page_of_resources_is_current() {
    is_current("docs/reference/resources.md", &resources::page(), "make reference");
}

#[test]
fn the_page_of_the_rest_api_is_current() {
    is_current("docs/reference/rest-api.md", &rest_api::page(), "make reference");
}

#[test]
fn the_page_of_the_command_line_is_current() {
    is_current("docs/reference/command-line.md", &command_line::page(), "make reference");
}

#[test]
fn the_page_of_files_is_current() {
    is_current("docs/reference/files.md", &files::page(), "make reference");
}

#[test]
fn the_page_of_alerts_is_current() {
    is_current("docs/reference/alerts.md", &alerts::page(), "make reference");
}

/// Each generated page is compared by one of the tests above.
#[test]
fn no_page_is_written_by_hand_but_the_first() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let mut pages: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    assert_eq!(
        pages,
        ["README.md", "alerts.md", "command-line.md", "files.md", "resources.md", "rest-api.md"]
    );
}
