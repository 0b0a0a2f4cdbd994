//! The list of pages, `pages.yaml`: read when the tests run, so that a page is added without compiling anything.

use std::{collections::BTreeMap, fs};

use crofter::yaml;
use serde::Deserialize;

/// Where the blocks are run that pages say real nodes run.
pub(super) const REAL: &str = "tests/chart/pages/real.rs";

/// All pages, and what they have in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) simulated: Vec<Page>,
    pub(super) real: Vec<Page>,
    given: BTreeMap<String, String>,
}

/// A page, and what is its author's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Below the repository.
    pub(super) path: String,
    #[serde(default)]
    pub(super) words: BTreeMap<String, String>,
    #[serde(default)]
    given: Vec<String>,
    #[serde(default)]
    and: String,
    #[serde(default)]
    part: bool,
}

impl List {
    pub(super) fn read() -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/pages/pages.yaml");
        yaml::read(&fs::read_to_string(file).unwrap()).unwrap()
    }

    /// The commands that make what a page takes for granted.
    pub(super) fn given(&self, page: &Page) -> String {
        let named = page.given.iter().map(|name| self.given[name].trim_end());
        named.chain([page.and.as_str()]).collect::<Vec<_>>().join("\n")
    }
}

impl Page {
    /// The test which the page says runs some of its blocks, where it is those that are typed.
    pub(super) fn by(&self) -> Option<&'static str> {
        self.part.then_some(REAL)
    }
}
