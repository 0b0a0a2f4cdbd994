//! The commands of a page of docs/, typed in their order, and what they print compared with what the page says.
//!
//! A block of `sh` is run. A block of `text` that follows it is what it prints, where `…` means any text within a line, and a
//! line of `…` alone any lines. Columns may be of another width. Words in a page that are of its author's site, such as the name
//! of a node, are given with what they are here; each must occur. Variables that a block exports hold in those after it.

use std::{fs, path::Path};

/// A block of commands, and what it prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The commands.
    pub commands: String,
    /// What the page says that they print.
    pub expected: Option<String>,
}

/// The steps of a page, with these words of the page replaced.
pub fn steps(page: &str, words: &[(&str, &str)]) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let mut text = fs::read_to_string(path).unwrap();
    for (theirs, ours) in words {
        assert!(text.contains(theirs), "docs/{page} has no `{theirs}`");
        text = text.replace(theirs, ours);
    }
    parse(&text)
}

fn parse(page: &str) -> Vec<Step> {
    let (mut steps, mut exports) = (Vec::<Step>::new(), String::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let body: String = lines
            .by_ref()
            .take_while(|line| line.trim_start() != "```")
            .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
            .collect();
        match language {
            "sh" => {
                let commands = format!("{exports}{body}");
                exports.extend(
                    body.lines().filter(|line| line.starts_with("export ")).map(|line| format!("{line}\n")),
                );
                steps.push(Step { commands, expected: None });
            }
            "text" => {
                let step = steps.last_mut().filter(|step| step.expected.is_none());
                step.unwrap().expected = Some(body);
            }
            _ => (),
        }
    }
    steps
}

/// Compares what was printed with what a page says; an error shows both.
pub fn compare(expected: &str, printed: &str) -> Result<(), String> {
    let lines = |text: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).filter(|line| !line.is_empty()).collect()
    };
    match all_match(&lines(expected), &lines(printed)) {
        true => Ok(()),
        false => Err(format!("the page says:\n{expected}\nprinted was:\n{printed}")),
    }
}

/// Whether lines match those of a page.
fn all_match(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "…" => (0..=printed.len()).any(|n| all_match(rest, &printed[n..])),
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, more)| line_matches(line, first) && all_match(rest, more)),
    }
}

/// Whether a line matches one with `…` for any text.
fn line_matches(expected: &str, printed: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // Nothing follows a line without `…`, or the last part of one with it.
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || printed.ends_with(part))
}

#[test]
fn a_page_is_run_in_order_and_compared_line_by_line() {
    let page = "1. One\n\n   ```sh\n   export A=1\n   cat <<X\n     in\n   X\n   ```\n\n   ```text\n   out …\n   ```\n```yaml\nno: 1\n```\n```sh\nlast\n```\n";
    let one = Step {
        commands: "export A=1\ncat <<X\n  in\nX\n".to_owned(),
        expected: Some("out …\n".to_owned()),
    };
    let two = Step { commands: "export A=1\nlast\n".to_owned(), expected: None };
    assert_eq!(parse(page), [one, two]);
    // What matches.
    for (expected, printed) in [
        ("a  b\n", "a b\n"),
        ("a …\n", "a b c\n"),
        ("a … c\n", "a b c\n"),
        ("…\nz\n", "a\nb\nz\n"),
        ("…\nz\n…\n", "z\n"),
        ("n …s\n", "n 5 s 7s\n"),
    ] {
        compare(expected, printed).unwrap();
    }
    // What does not.
    for (expected, printed) in [
        ("a\n", "b\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("a … c\n", "a b d\n"),
        ("a\n", "a b\n"),
        ("…\nz\n", "z\ny\n"),
    ] {
        compare(expected, printed).unwrap_err();
    }
}
