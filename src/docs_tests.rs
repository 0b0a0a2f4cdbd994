//! Tests of the pages: each link has a target that says what its words promise, and no page denies a route of the REST API.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

mod llms;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &Path) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// The pages of the repository's root and of docs/ with its directories, by their path from the root.
fn pages() -> Vec<PathBuf> {
    let mut dirs = vec![root().to_owned(), root().join("docs")];
    let mut pages = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && dir != root() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    pages.sort();
    pages
}

/// The lines outside of blocks of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    })
}

/// The words in brackets and the target in parentheses of each link.
fn links(page: &str) -> Vec<(String, String)> {
    // A regular expression in code may have the same brackets.
    let is_expression = |(n, part): &(usize, &str)| n % 2 == 1 && part.contains("](");
    let without = |line: &str| {
        let parts = line.split('`').enumerate().filter(|part| !is_expression(part)).map(|(_, part)| part);
        parts.collect::<Vec<_>>().join("`")
    };
    let text = prose(page).map(without).collect::<Vec<_>>().join(" ");
    let mut links = Vec::new();
    for (at, _) in text.match_indices("](") {
        let (before, after) = (&text[..at], &text[at + 2..]);
        let Some(words) = before.rfind('[').map(|begin| &before[begin + 1..]) else { continue };
        let Some((target, _)) = after.split_once(')') else { continue };
        links.push((words.to_owned(), target.to_owned()));
    }
    links
}

/// A heading's anchor, as GitHub makes it.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// A heading's level and text.
fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.chars().take_while(|c| *c == '#').count();
    (level > 0).then(|| line[level..].strip_prefix(' ')).flatten().map(|text| (level, text))
}

/// The page from the heading with an anchor to the next one that is not below it; with its code.
fn section(page: &str, wanted: &str) -> Option<String> {
    let headings: BTreeSet<&str> = prose(page).filter(|line| heading(line).is_some()).collect();
    let is = |line: &str, matches: &dyn Fn(usize, &str) -> bool| {
        headings.contains(line) && heading(line).is_some_and(|(level, text)| matches(level, text))
    };
    let mut lines = page.lines().skip_while(|line| !is(line, &|_, text| anchor(text) == wanted));
    let first = lines.next()?;
    let (top, _) = heading(first)?;
    let rest = lines.take_while(|line| !is(line, &|level, _| level <= top));
    Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n"))
}

/// `docs/a.md` and `../b.md` are `b.md`.
fn resolved(page: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in page.parent().unwrap().join(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{target} is outside of the repository"),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// What is wrong with a link of a page.
fn fault(page: &Path, words: &str, target: &str) -> Option<String> {
    let (file, wanted) = target.split_once('#').map_or((target, None), |(file, wanted)| (file, Some(wanted)));
    let path = if file.is_empty() { page.to_owned() } else { resolved(page, file) };
    if !root().join(&path).exists() {
        return Some("no such file".to_owned());
    }
    if path.extension().is_none_or(|end| end != "md") {
        return None;
    }
    let whole = read(&path);
    let Some(text) = wanted.map_or_else(|| Some(whole.clone()), |wanted| section(&whole, wanted)) else {
        return Some("no such heading".to_owned());
    };
    // A word in another form has the same first letters.
    let title = whole.lines().next().unwrap_or_default();
    let said = format!("{} {title} {text}", path.display()).to_lowercase();
    let promised = words.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 3);
    let absent: Vec<&str> =
        promised.filter(|word| !said.contains(&word.to_lowercase()[..word.len().min(5)])).collect();
    (!absent.is_empty()).then(|| format!("it does not say {absent:?}"))
}

#[test]
fn each_link_leads_to_a_file_and_a_heading_that_says_what_its_words_promise() {
    let mut faults = Vec::new();
    let mut checked = 0;
    for page in pages() {
        for (words, target) in links(&read(&page)).iter().filter(|(_, target)| !target.contains("://")) {
            checked += 1;
            if let Some(fault) = fault(&page, words, target) {
                faults.push(format!("{}: [{words}]({target}): {fault}", page.display()));
            }
        }
    }
    assert!(checked > 200, "{checked} links are few");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let summary = read(Path::new("tests/book/SUMMARY.md"));
    let listed: BTreeSet<String> = links(&summary).into_iter().map(|(_, target)| target).collect();
    let pages =
        pages().into_iter().filter_map(|page| Some(page.strip_prefix("docs").ok()?.display().to_string()));
    // The list of decision records is of scripts/book.
    let absent: Vec<String> =
        pages.filter(|page| !page.starts_with("adr/0") && !listed.contains(page)).collect();
    assert!(absent.is_empty(), "tests/book/SUMMARY.md lacks {absent:?}");
}

#[test]
fn a_link_without_its_page_heading_or_words_is_found() {
    let fault = |words: &str, target: &str| fault(Path::new("docs/jobs.md"), words, target);
    assert_eq!(fault("declared out of service", "workers.md#a-node-that-is-lost"), None);
    assert_eq!(fault("contributing", "../README.md"), None);
    let found = links("`[a](b)*` and [`c` d](e.md), `[f](g)`");
    assert_eq!(found, [("`c` d".to_owned(), "e.md".to_owned())]);
    assert_eq!(fault("workers", "labourers.md").as_deref(), Some("no such file"));
    assert_eq!(fault("workers", "workers.md#a-node-that-is-found").as_deref(), Some("no such heading"));
    let elsewhere = fault("declared out of service", "workers.md#how-a-node-is-given-back");
    assert_eq!(elsewhere.as_deref(), Some("it does not say [\"declared\", \"service\"]"));
}

#[test]
fn a_lost_node_is_declared_out_of_service_as_the_page_of_workers_says() {
    let jobs = links(&read(Path::new("docs/jobs.md")));
    let (_, target) = jobs.iter().find(|(words, _)| words == "declared out of service").unwrap();
    let (page, wanted) = target.split_once('#').unwrap();
    let text = section(&read(&Path::new("docs").join(page)), wanted).unwrap();
    for command in [
        "kubectl delete node",
        "kubectl taint node",
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
    ] {
        assert!(text.contains(command), "{command} is not in {target}");
    }
}

/// The sentences of a page which say that something of the REST API is absent.
fn denials(page: &str, routes: &BTreeSet<String>) -> Vec<String> {
    const ABSENT: [&str; 8] = [
        "not there yet",
        "not yet",
        "not implemented",
        "not available",
        "no route",
        "not part of",
        "are missing",
        "is missing",
    ];
    let text = prose(page).collect::<Vec<_>>().join(" ");
    let denies = |sentence: &&str| {
        let small = sentence.to_lowercase();
        let mut words = small.split(|c: char| !c.is_alphanumeric());
        ABSENT.iter().any(|absent| small.contains(absent))
            && (small.contains("rest api") || small.contains("route"))
            && words.any(|word| routes.contains(word))
    };
    text.split(". ").filter(denies).map(str::to_owned).collect()
}

#[test]
fn no_page_denies_a_route_that_the_document_of_the_rest_api_has() {
    let document: Value = serde_json::from_str(&read(Path::new("docs/openapi.json"))).unwrap();
    let paths = document["paths"].as_object().unwrap().keys();
    let parts = paths.flat_map(|path| path.split('/')).filter(|part| part.chars().all(char::is_alphabetic));
    let routes: BTreeSet<String> = parts.filter(|part| !part.is_empty()).map(str::to_owned).collect();
    assert!(["logs", "events", "why"].iter().all(|route| routes.contains(*route)), "{routes:?}");
    let denied = "Work goes on: of the REST API the routes of logs and events are not there yet.";
    assert_eq!(denials(denied, &routes), [denied]);
    for page in pages() {
        // Decision records and the changelog describe earlier states.
        if page.starts_with("docs/adr") || page == Path::new("CHANGELOG.md") {
            continue;
        }
        let found = denials(&read(&page), &routes);
        assert!(found.is_empty(), "{}: {found:?}", page.display());
    }
}
