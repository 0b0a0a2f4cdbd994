//! No page escapes: each block of each page is run by a test, or says on the page why none runs it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::list::{List, REAL};
use crate::page;

/// The documents besides docs/.
const OTHERS: [&str; 4] = ["README.md", "SECURITY.md", "CHANGELOG.md", "charts/crofter/README.md"];

/// The pages below a directory of the repository.
fn pages_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            pages_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let below = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            found.insert(below.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_block_of_every_page_is_run_or_says_why_not() {
    // Given all documents, and those that are typed.
    let mut all: BTreeSet<String> = OTHERS.map(str::to_owned).into();
    pages_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"), &mut all);
    let list = List::read();
    let pages = || list.simulated.iter().chain(&list.real);
    let run: BTreeSet<&str> =
        pages().filter(|page| page.by().is_none()).map(|page| page.path.as_str()).collect();
    // Each block of a document is read, and a document with one that is to be typed is typed.
    let mut wrong = Vec::new();
    for path in &all {
        let text = page::read(path, &[]).unwrap();
        match page::steps(&text, None) {
            Err(error) => wrong.push(format!("{path}: {error}")),
            Ok(steps) if steps.is_empty() == run.contains(path.as_str()) => {
                wrong.push(format!(
                    "{path}: {} blocks to run, and a test that runs them: {}",
                    steps.len(),
                    run.contains(path.as_str())
                ));
            }
            Ok(_) => (),
        }
        // A test that types blocks of a page by itself reads that page.
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        for test in page::other_tests(&text) {
            let source =
                fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&test)).unwrap_or_default();
            let is_listed =
                test == REAL && list.real.iter().any(|page| page.path == *path && page.by().is_some());
            if !is_listed && !source.contains(name) {
                wrong.push(format!("{path}: {test} does not name {name}"));
            }
        }
    }
    // What is typed has something to type.
    for page in pages() {
        let steps = page::steps(&page::read(&page.path, &[]).unwrap_or_default(), page.by());
        if steps.is_ok_and(|steps| steps.is_empty()) {
            wrong.push(format!("{} has no block that is run by {:?}", page.path, page.by()));
        }
    }
    assert!(wrong.is_empty(), "see docs/contributing.md, \"A page\":\n{}", wrong.join("\n"));
}
