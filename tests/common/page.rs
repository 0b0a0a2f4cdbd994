//! What a page of the documentation says to type, and what it says that follows.
//!
//! Guarantees: each block of a page is a step of its test, or declared on the page not to be one; nothing else is read. The rules
//! are in docs/contributing.md, under "A page". A step knows its line, so that what is wrong is found on the page.

use std::{fs, path::Path};

use crofter::yaml;
use serde_json::Value;

/// A step of the test of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The line of the page on which its block begins.
    pub line: usize,
    /// What is done.
    pub action: Action,
}

/// What is done in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Commands are typed.
    Run(Commands),
    /// Whole objects are applied.
    Apply(String),
    /// A file is written into the directory in which commands are typed.
    Write { name: String, text: String },
    /// The API server, or helm, checks a part of something.
    Check { part_of: String, text: String },
}

/// Commands, and what follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commands {
    /// What is typed.
    pub text: String,
    /// What the page says that they print.
    pub prints: Option<Prints>,
    /// The code with which they end.
    pub exits: i32,
    /// Whether they are typed again until they print that.
    pub repeated: bool,
}

/// What commands print.
#[derive(Clone, Debug, PartialEq)]
pub enum Prints {
    /// Lines; `…` is any text within one, and a line of `…` alone is any lines.
    Text(String),
    /// One value, of which the page may show a part; the text `…` is any value.
    Json(Value),
}

/// The text of a file of the repository, with these words replaced, each of which must occur.
pub fn read(path: &str, words: &[(String, String)]) -> Result<String, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut text = fs::read_to_string(file).map_err(|error| format!("{path}: {error}"))?;
    for (theirs, ours) in words {
        if !text.contains(theirs) {
            return Err(format!("{path} has no `{theirs}`"));
        }
        text = text.replace(theirs, ours);
    }
    Ok(text)
}

/// A fenced block.
struct Block {
    line: usize,
    language: String,
    /// The comments above it, without their marks.
    notes: Vec<String>,
    body: String,
}

impl Block {
    /// What follows a word in the comments above the block.
    fn note(&self, word: &str) -> Option<&str> {
        self.notes.iter().find_map(|note| note.strip_prefix(word)).map(str::trim)
    }
}

/// The blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut notes) = (Vec::new(), Vec::new());
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        if let Some(note) = trimmed.strip_prefix("<!--").and_then(|note| note.strip_suffix("-->")) {
            notes.push(note.trim().to_owned());
        } else if let Some(language) = trimmed.strip_prefix("```") {
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim_start() != "```");
            let body = body.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
            let notes = std::mem::take(&mut notes);
            blocks.push(Block { line: number + 1, language: language.to_owned(), notes, body });
        } else if !trimmed.is_empty() {
            notes.clear();
        }
    }
    blocks
}

/// The tests that type blocks of a page which its own test does not.
pub fn other_tests(page: &str) -> Vec<String> {
    let named = |block: Block| block.note("run by ").map(str::to_owned);
    blocks(page).into_iter().filter_map(named).collect()
}

/// The steps of a page: those of its own test, or, where a test is given, those that the page says are run by it.
///
/// # Errors
/// The line of a block that is none and is not declared, and why.
pub fn steps(page: &str, by: Option<&str>) -> Result<Vec<Step>, String> {
    let mut steps = Vec::<Step>::new();
    // Whether the commands before were another test's: so is what they print.
    let mut is_others = false;
    for block in blocks(page) {
        let line = block.line;
        if block.language == "mermaid" || block.note("not run:").is_some_and(|reason| !reason.is_empty()) {
            is_others |= block.language == "sh";
            continue;
        }
        // What is printed belongs to the commands before it, once.
        if matches!(block.language.as_str(), "text" | "json") && block.notes.is_empty() {
            match is_others {
                true => is_others = by.is_some(),
                false => add_output(&mut steps, block)?,
            }
            continue;
        }
        is_others = block.note("run by ") != by;
        if is_others {
            continue;
        }
        let (file, part_of) = (block.note("file:"), block.note("part of:"));
        if file.is_some() || part_of.is_some() {
            let text = || block.body.clone();
            let write = file.map(|name| Action::Write { name: name.to_owned(), text: text() });
            let check = part_of.map(|part_of| Action::Check { part_of: part_of.to_owned(), text: text() });
            steps.extend(write.into_iter().chain(check).map(|action| Step { line, action }));
            continue;
        }
        let action = match block.language.as_str() {
            "sh" => Action::Run(commands(block)?),
            "yaml" if is_whole(&block.body) => Action::Apply(block.body),
            "yaml" => return Err(format!("line {line}: no whole objects; what is it a part of?")),
            other => return Err(format!("line {line}: no test runs a block of `{other}`")),
        };
        steps.push(Step { line, action });
    }
    for step in &steps {
        if matches!(&step.action, Action::Run(commands) if commands.repeated && commands.prints.is_none()) {
            return Err(format!("line {}: repeated until what is printed?", step.line));
        }
    }
    Ok(steps)
}

fn commands(block: Block) -> Result<Commands, String> {
    let exits = block.note("exits:").unwrap_or("0").parse();
    let exits = exits.map_err(|error| format!("line {}: exits: {error}", block.line))?;
    let repeated = block.notes.iter().any(|note| note == "repeated");
    Ok(Commands { text: block.body, prints: None, exits, repeated })
}

/// Adds a block of output to the commands right before it.
fn add_output(steps: &mut [Step], block: Block) -> Result<(), String> {
    let line = block.line;
    let prints = if block.language == "json" {
        Prints::Json(serde_json::from_str(&block.body).map_err(|error| format!("line {line}: {error}"))?)
    } else {
        Prints::Text(block.body)
    };
    match steps.last_mut() {
        Some(Step { action: Action::Run(commands), .. }) if commands.prints.is_none() => {
            commands.prints = Some(prints);
            Ok(())
        }
        _ => Err(format!("line {line}: no commands come before what is printed")),
    }
}

/// Whether all of these documents are objects of the API.
fn is_whole(text: &str) -> bool {
    let objects = yaml::read_all::<Value>(text).unwrap_or_default();
    !objects.is_empty() && objects.iter().all(|object| object["apiVersion"].is_string())
}

impl Prints {
    /// Compares what was printed with what the page says; an error shows both.
    pub fn compare(&self, printed: &str) -> Result<(), String> {
        let (matches, expected) = match self {
            Self::Text(text) => (all_match(&normalized(text), &normalized(printed)), text.clone()),
            Self::Json(value) => {
                let printed = serde_json::from_str(printed).unwrap_or(Value::Null);
                (json_matches(value, &printed), format!("{value:#}"))
            }
        };
        match matches {
            true => Ok(()),
            false => Err(format!("the page says:\n{expected}\nprinted was:\n{printed}")),
        }
    }
}

/// The lines of a text that are not empty, with columns of one width.
fn normalized(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).filter(|line| !line.is_empty()).collect()
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

/// Whether a value has what the page shows of it: of an object the page may leave out fields.
fn json_matches(expected: &Value, printed: &Value) -> bool {
    match (expected, printed) {
        (Value::Object(expected), Value::Object(printed)) => expected
            .iter()
            .all(|(key, value)| printed.get(key).is_some_and(|printed| json_matches(value, printed))),
        (Value::Array(expected), Value::Array(printed)) => {
            expected.len() == printed.len()
                && expected.iter().zip(printed).all(|(expected, printed)| json_matches(expected, printed))
        }
        (Value::String(expected), _) if expected == "…" => true,
        (Value::String(expected), Value::String(printed)) => line_matches(expected, printed),
        _ => expected == printed,
    }
}
