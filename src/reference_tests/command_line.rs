//! The page of the command line, from clap's definitions.
//!
//! Options that several commands take in the same words are described once, where they come first.

use std::collections::BTreeMap;

use clap::{Arg, Command, CommandFactory};

use super::markdown::Page;
use crate::{cli::Cli, plugin};

/// Fewer options than these of another command are described again.
const MANY: usize = 3;

pub fn page() -> String {
    let mut page = Page::new("Command line");
    page.paragraph(
        "An option takes precedence over its environment variable. The exit code of `crofter` is 0, 1 where it has failed, and \
         2 where the command line is wrong; `kubectl crofter` has [exit codes](../kubectl-crofter.md#exit-codes) for scripts.",
    );
    for mut program in [Cli::command(), plugin::command("kubectl crofter")] {
        program.build();
        let name = program.get_display_name().unwrap_or(program.get_name()).to_owned();
        page.heading(2, &name);
        command(&mut page, &program, &name, &mut BTreeMap::new());
    }
    page.finish()
}

/// A command and those below it, but not what clap itself adds to each. `described` has the command whose section describes an option, by the option's text.
fn command(page: &mut Page, command: &Command, path: &str, described: &mut BTreeMap<String, String>) {
    let usage = command.clone().render_usage().to_string();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    page.description(&sentence(&about));
    page.paragraph(&format!("`{}`", usage.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")));
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        page.paragraph(&format!("Also named {}.", aliases.join(", ")));
    }
    options(page, command, path, described);
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        let path = format!("{path} {}", inner.get_name());
        page.heading(3, &format!("`{path}`"));
        self::command(page, inner, &path, described);
    }
}

/// The options and arguments of a command.
fn options(page: &mut Page, command: &Command, path: &str, described: &mut BTreeMap<String, String>) {
    // Global options are those of the program, which comes first.
    let is_top = described.is_empty();
    let own = |arg: &&Arg| {
        let is_of_clap = arg.get_id() == "help" || arg.get_id() == "version";
        !arg.is_hide_set() && !is_of_clap && (is_top || !arg.is_global_set())
    };
    let mut sections: Vec<(String, Vec<Described>)> = Vec::new();
    for arg in command.get_arguments().filter(own) {
        let option = Described::of(arg);
        let section = described.entry(option.key()).or_insert_with(|| path.to_owned());
        match sections.iter_mut().find(|(known, _)| known == section) {
            Some((_, options)) => options.push(option),
            None => sections.push((section.clone(), vec![option])),
        }
    }
    for (section, options) in sections {
        if section == path || options.len() < MANY {
            options.iter().for_each(|option| option.write(page));
        } else {
            let names: Vec<&str> = options.iter().map(|option| &*option.name).collect();
            let anchor = section.replace(' ', "-");
            page.item(0, &format!("{}: as of [`{section}`](#{anchor})", names.join(", ")));
        }
    }
}

/// An option or an argument.
struct Described {
    name: String,
    facts: Vec<String>,
    help: String,
    /// Its possible values, where they have descriptions.
    values: Vec<(String, String)>,
}

impl Described {
    fn of(arg: &Arg) -> Self {
        let code = |text: &str| format!("`{text}`");
        let short = arg.get_short().filter(|_| arg.get_long().is_some());
        let name = short.map_or_else(|| code(&arg.to_string()), |short| format!("`-{short}`, `{arg}`"));
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let mut facts: Vec<String> = arg
            .get_visible_aliases()
            .unwrap_or_default()
            .iter()
            .map(|alias| format!("or `--{alias}`"))
            .collect();
        facts.extend(arg.get_env().and_then(|name| name.to_str()).map(code));
        let mut values = Vec::new();
        if arg.get_action().takes_values() {
            let possible = arg.get_possible_values();
            let names: Vec<String> = possible.iter().map(|value| code(value.get_name())).collect();
            if possible.iter().any(|value| value.get_help().is_some()) {
                let help = |value: &clap::builder::PossibleValue| {
                    sentence(&value.get_help().map(ToString::to_string).unwrap_or_default())
                };
                values = names.into_iter().zip(possible.iter().map(help)).collect();
            } else if !names.is_empty() {
                facts.push(format!("one of {}", names.join(", ")));
            }
            let defaults = arg.get_default_values().iter().filter_map(|value| value.to_str());
            facts.extend(defaults.map(|value| format!("by default `{value}`")));
        }
        if arg.is_required_set() && !arg.is_positional() {
            facts.push("required".to_owned());
        }
        Self { name, facts, help: sentence(&help), values }
    }

    fn key(&self) -> String {
        format!("{} {:?} {} {:?}", self.name, self.facts, self.help, self.values)
    }

    fn write(&self, page: &mut Page) {
        let facts =
            if self.facts.is_empty() { String::new() } else { format!(" ({})", self.facts.join(", ")) };
        page.described(0, &format!("{}{facts}", self.name), &self.help);
        for (value, help) in &self.values {
            page.described(1, value, help);
        }
    }
}

/// With the full stop that clap takes away.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with(['.', ':']) { text.to_owned() } else { format!("{text}.") }
}
