//! `completion`: scripts for shells, and what kubectl asks of `kubectl_complete-crofter`.
//!
//! Names of jobs and tenants are completed from the server where it answers at once; a shell does not wait for it longer.

use std::time::Duration;

use clap::{Arg, Command, ValueEnum};
use clap_complete::Shell;

use super::{Context, table::clean};
use crate::client::{Connection, JobFilter, Result, Scope, connect};

/// How long the server may take.
const LIMIT: Duration = Duration::from_millis(1500);
/// Names that are offered.
const MAX_NAMES: usize = 200;
/// What ends the answer to kubectl: offer no names of files (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell, or `kubectl` for the program `kubectl_complete-crofter`
    shell: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    /// The program that kubectl runs to complete `kubectl crofter`
    Kubectl,
}

/// The program that kubectl runs.
const FOR_KUBECTL: &str = "#!/bin/sh\n# Completes `kubectl crofter`: install it on the PATH as kubectl_complete-crofter.\nexec kubectl-crofter __complete -- \"$@\"\n";

pub fn run(context: &Context, args: &Args) -> Result<()> {
    let shell = match args.shell {
        Target::Bash => Shell::Bash,
        Target::Elvish => Shell::Elvish,
        Target::Fish => Shell::Fish,
        Target::Powershell => Shell::PowerShell,
        Target::Zsh => Shell::Zsh,
        Target::Kubectl => return context.terminal.print(FOR_KUBECTL),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command("kubectl-crofter"), "kubectl-crofter", &mut script);
    context.terminal.bytes(&script)
}

/// Names that only the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dynamic {
    Jobs,
    Tenants,
}

/// What may follow.
#[derive(Debug, Default, PartialEq, Eq)]
struct Offers {
    /// Each word, with what it means.
    words: Vec<(String, String)>,
    dynamic: Option<Dynamic>,
}

/// Answers kubectl: one line for each word that may take the place of the last one.
pub async fn answer(context: &Context, words: &[String]) -> Result<()> {
    let mut command = super::command("kubectl-crofter");
    command.build();
    let mut offers = offers(&command, words);
    if let Some(dynamic) = offers.dynamic {
        let names = tokio::time::timeout(LIMIT, names(&context.global.connection, dynamic, words)).await;
        // Without an answer there is nothing to offer, and no place for an error.
        let names = names.ok().and_then(Result::ok).unwrap_or_default();
        offers.words.extend(names.into_iter().map(|name| (name, String::new())));
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    let mut text = String::new();
    for (word, about) in offers.words.iter().filter(|(word, _)| word.starts_with(last)) {
        text += &clean(word);
        if !about.is_empty() {
            text += &format!("\t{}", clean(about));
        }
        text.push('\n');
    }
    context.terminal.print(&format!("{text}{NO_FILES}\n"))
}

/// The value of a flag among words.
fn value<'a>(words: &'a [String], long: &str, short: Option<char>) -> Option<&'a str> {
    let (long, short) = (format!("--{long}"), short.map(|short| format!("-{short}")));
    words.iter().enumerate().find_map(|(at, word)| {
        let is_it = *word == long || Some(word) == short.as_ref();
        if is_it { words.get(at + 1).map(String::as_str) } else { word.strip_prefix(&format!("{long}=")) }
    })
}

async fn names(flags: &Connection, dynamic: Dynamic, words: &[String]) -> Result<Vec<String>> {
    // The words are the user's command line, which is not parsed yet: it is not whole.
    let own = |name: &str| value(words, name, None).map(str::to_owned);
    let connection = Connection {
        server: own("server").or_else(|| flags.server.clone()),
        context: own("context").or_else(|| flags.context.clone()),
        profile: own("profile").or_else(|| flags.profile.clone()),
        kubeconfig: own("kubeconfig").map(Into::into).or_else(|| flags.kubeconfig.clone()),
        ..flags.clone()
    };
    let connected = connect(&connection).await?;
    if dynamic == Dynamic::Tenants {
        let tenants = connected.transport.tenants().await?;
        return Ok(tenants.into_iter().take(MAX_NAMES).map(|tenant| tenant.name).collect());
    }
    let tenant = value(words, "tenant", Some('t')).map(str::to_owned).or_else(|| {
        let namespace = value(words, "namespace", Some('n'))?;
        namespace.strip_prefix(&connection.namespace_prefix).map(str::to_owned)
    });
    let scope = tenant.or(connected.tenant).map_or(Scope::Own, Scope::Tenant);
    let filter = JobFilter { limit: MAX_NAMES, ..JobFilter::default() };
    let jobs = connected.transport.jobs(&scope, &filter).await?;
    Ok(jobs.jobs.into_iter().map(|job| job.name).collect())
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => word
            .strip_prefix('-')
            .is_some_and(|short| arg.get_short().is_some_and(|own| short == own.to_string())),
    })
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// The values that an argument knows, or where its names come from.
fn values(arg: &Arg) -> Offers {
    let dynamic = match arg.get_id().as_str() {
        "job" | "jobs" => Some(Dynamic::Jobs),
        "tenant" => Some(Dynamic::Tenants),
        "name" if arg.get_value_names().is_some_and(|names| names.iter().any(|name| *name == "TENANT")) => {
            Some(Dynamic::Tenants)
        }
        _ => None,
    };
    let known = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    let words = known.map(|value| (value.get_name().to_owned(), about(value.get_help()))).collect();
    Offers { words, dynamic }
}

/// What may take the place of the last word, after the ones before it.
fn offers(root: &Command, words: &[String]) -> Offers {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let (mut command, mut positional, mut open) = (root, 0, None);
    for word in before {
        if open.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            open = flag(command, word).filter(|arg| takes_value(arg));
        } else if let Some(sub) = command.find_subcommand(word) {
            (command, positional) = (sub, 0);
        } else {
            positional += 1;
        }
    }
    if let Some(arg) = open {
        return values(arg);
    }
    if last.starts_with('-') {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let words = flags.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help()))));
        return Offers { words: words.collect(), dynamic: None };
    }
    if command.has_subcommands() {
        let all = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let words = all.map(|sub| (sub.get_name().to_owned(), about(sub.get_about())));
        return Offers { words: words.collect(), dynamic: None };
    }
    // The last positional argument may take more than one.
    let all: Vec<&Arg> = command.get_positionals().collect();
    let arg = all.get(positional).or_else(|| {
        all.last().filter(|arg| arg.get_action().takes_values() && positional >= all.len() && is_list(arg))
    });
    arg.map(|arg| values(arg)).unwrap_or_default()
}

fn is_list(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.max_values() > 1)
        || matches!(arg.get_action(), clap::ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &[&str]) -> (Vec<String>, Option<Dynamic>) {
        let mut command = super::super::command("kubectl-crofter");
        command.build();
        let words: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        let offers = offers(&command, &words);
        (offers.words.into_iter().map(|(word, _)| word).collect(), offers.dynamic)
    }

    #[test]
    fn verbs_flags_values_and_names_are_offered() {
        // The first word is a verb, and no hidden one; the flags of all verbs do not count as one.
        for line in [&[""][..], &["-t", "acme", ""], &["--output=json", "-v", ""]] {
            let (verbs, _) = offered(line);
            assert!(
                verbs.contains(&"status".to_owned()) && !verbs.contains(&"__complete".to_owned()),
                "{line:?}"
            );
        }
        assert_eq!(offered(&["keys", ""]).0[..3], ["list", "create", "rotate"]);
        // Values of flags and arguments that are a closed list.
        assert!(offered(&["jobs", "-o", ""]).0.contains(&"yaml".to_owned()));
        assert!(offered(&["jobs", "--status", ""]).0.contains(&"timed_out".to_owned()));
        assert!(offered(&["completion", ""]).0.contains(&"kubectl".to_owned()));
        assert!(offered(&["logs", "--"]).0.contains(&"--follow".to_owned()));
        // Names are the server's.
        for (line, expected) in [
            (&["why", ""][..], Some(Dynamic::Jobs)),
            (&["cancel", "a", "b", ""], Some(Dynamic::Jobs)),
            (&["status", ""], Some(Dynamic::Tenants)),
            (&["jobs", "-t", ""], Some(Dynamic::Tenants)),
            (&["tenants", "set", ""], Some(Dynamic::Tenants)),
            (&["why", "a", ""], None),
            (&["submit", "--image", ""], None),
        ] {
            assert_eq!(offered(line).1, expected, "{line:?}");
        }
    }

    #[test]
    fn flags_are_found_among_words_that_are_not_parsed() {
        let words = ["jobs", "-t", "acme", "--context=c"].map(str::to_owned);
        assert_eq!(value(&words, "tenant", Some('t')), Some("acme"));
        assert_eq!(value(&words, "context", None), Some("c"));
        assert_eq!(value(&words, "server", None), None);
    }
}
