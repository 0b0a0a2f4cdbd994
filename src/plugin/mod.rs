//! `kubectl crofter`: Crofter for people at a terminal, and for their scripts.
//!
//! One file a verb. A verb reads with a [`Transport`], and turns what it has read into text by a pure function. Results go to
//! standard output, remarks and progress to standard error; the exit codes are those of [`Kind`], and an error ends with the
//! command to run next.

mod can_run;
mod cancel;
mod check;
mod completion;
mod follow;
mod jobs;
mod keys;
mod login;
mod logs;
mod nodes;
mod output;
mod report;
mod retry;
mod spec_flags;
mod status;
mod submit;
mod table;
mod tenants;
mod top;
mod trace;
mod usage;
mod version;
mod wait;
mod whoami;
mod why;

use std::{ffi::OsString, io::Write as _, path::Path, process::ExitCode, sync::Arc};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    output::{CLOSED, Format, Terminal},
    table::clean,
};
use crate::{
    client::{Connection, Error, Kind, Result, Scope, Transport, connect},
    clock::Clock,
};

/// The exit code of a process whose reader has gone: that of SIGPIPE.
const CLOSED_OUTPUT: u8 = 141;

/// Jobs, tenants and keys of Crofter, from the command line.
#[derive(Debug, Parser)]
#[command(name = "kubectl-crofter", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// The flags of all verbs.
#[derive(Clone, Debug, Default, clap::Args)]
struct Global {
    #[command(flatten)]
    connection: Connection,
    /// Namespace of the tenant
    #[arg(short, long, global = true, value_name = "NAMESPACE", conflicts_with = "tenant")]
    namespace: Option<String>,
    /// Tenant [env: CROFTER_TENANT]
    #[arg(short, long, global = true, value_name = "NAME")]
    tenant: Option<String>,
    /// Of all tenants
    #[arg(short = 'A', long, visible_alias = "all-namespaces", global = true)]
    all_tenants: bool,
    /// Form of the result
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A tenant on one page: quotas, hourly window, workers, keys about to expire, waiting jobs with reasons
    Status(status::Args),
    /// List jobs, or show one
    #[command(visible_alias = "job")]
    Jobs(jobs::Args),
    /// Say why a job waits: its position, and the conditions of its start with numbers
    Why(why::Args),
    /// Say what would become of a job, without submitting it
    CanRun(Box<can_run::Args>),
    /// Submit a job from a file or flags; with --watch follow it to its end
    Submit(Box<submit::Args>),
    /// Print what a job has printed; with -f over its retries to its end
    Logs(logs::Args),
    /// Wait until jobs have ended, and exit with their code
    Wait(wait::Args),
    /// Request the end of jobs
    Cancel(cancel::Args),
    /// Submit the spec of a job that has ended again
    Retry(retry::Args),
    /// Which tenants use most, and how near they are to their quotas
    Top(top::Args),
    /// API keys: list, create, rotate, revoke
    Keys(keys::Args),
    /// Tenants, for administrators: list, get, set
    Tenants(tenants::Args),
    /// What a tenant has used, by hour or day; a month with --month 2026-11, for spreadsheets with -o csv
    Usage(usage::Args),
    /// Worker nodes of a tenant: list, assign, release
    Nodes(nodes::Args),
    /// The tree of what a tenant or a job owns: trace tenant/acme, trace job/render
    Trace(trace::Args),
    /// Write a support bundle, one text file with nothing secret in it
    Report(report::Args),
    /// Say whether the installation works, and how to mend what does not
    Check(check::Args),
    /// Write a profile for a REST API: login --server URL
    Login(login::Args),
    /// Say as whom requests are made
    Whoami,
    /// Print the version of this program and of the server
    Version(version::Args),
    /// Print a script that completes commands in a shell
    Completion(completion::Args),
    /// Answer kubectl, which completes `kubectl crofter`
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far
        #[arg(last = true)]
        words: Vec<String>,
    },
}

/// What verbs work with.
struct Context {
    global: Global,
    terminal: Terminal,
    clock: Clock,
}

/// A server, and whose objects requests are about.
struct Session {
    transport: Arc<dyn Transport>,
    scope: Scope,
}

impl Context {
    fn format(&self) -> Format {
        self.global.output
    }

    /// Connects, with the tenant of the flags or the profile.
    async fn session(&self) -> Result<Session> {
        let global = &self.global;
        let named = named_scope(global, tenant_of_variable())?;
        let connected = connect(&global.connection).await?;
        let own = || connected.tenant.clone().map_or(Scope::Own, Scope::Tenant);
        Ok(Session { scope: named.unwrap_or_else(own), transport: connected.transport })
    }

    /// The same for a verb whose argument may name the tenant.
    async fn session_of(&self, tenant: Option<&str>) -> Result<Session> {
        let mut session = self.session().await?;
        if let Some(name) = tenant {
            session.scope = Scope::Tenant(name.to_owned());
        }
        Ok(session)
    }
}

/// The variable with the tenant, where no flag names one.
fn tenant_of_variable() -> Option<String> {
    std::env::var("CROFTER_TENANT").ok().filter(|name| !name.is_empty())
}

/// The tenant that the flags name, or the variable.
fn named_scope(global: &Global, variable: Option<String>) -> Result<Option<Scope>> {
    if global.all_tenants {
        return Ok(Some(Scope::All));
    }
    if let Some(tenant) = &global.tenant {
        return Ok(Some(Scope::Tenant(tenant.clone())));
    }
    let Some(namespace) = &global.namespace else { return Ok(variable.map(Scope::Tenant)) };
    let prefix = &global.connection.namespace_prefix;
    let tenant = namespace.strip_prefix(&**prefix).filter(|name| !name.is_empty());
    let tenant = tenant.ok_or_else(|| {
        let message = format!(
            "failed to choose a tenant: {namespace} is no tenant's namespace: they begin with {prefix}"
        );
        Error::usage(message).next("tenants list")
    })?;
    Ok(Some(Scope::Tenant(tenant.to_owned())))
}

/// What the user typed to start this program: kubectl runs it by the name `kubectl-crofter`.
fn program(first: Option<&OsString>) -> String {
    let name = first.and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    match name {
        None | Some("kubectl-crofter") => "kubectl crofter".to_owned(),
        Some(other) => other.to_owned(),
    }
}

/// The command line, with the program's name as the user knows it.
pub(crate) fn command(program: &str) -> clap::Command {
    Cli::command().name("kubectl-crofter").bin_name(program).display_name(program)
}

/// Does what the command line says.
///
/// # Panics
/// Never: `clap` ends the process itself where the command line is wrong, or asks for help.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let program = program(arguments.first());
    let parsed = command(&program).try_get_matches_from(&arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help of a reader that has gone is no error.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let context = Context { global: cli.global, terminal: Terminal::of_process(), clock: Clock::system() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(&context, cli.verb)),
        Err(error) => Err(Error::new(Kind::Failed, format!("failed to start: {error}"))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.code.as_deref() == Some(CLOSED) => ExitCode::from(CLOSED_OUTPUT),
        Err(error) => {
            drop(write!(std::io::stderr().lock(), "{}", explained(&program, &error)));
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// An error as it is printed: what failed, and the command to run next.
fn explained(program: &str, error: &Error) -> String {
    let fallback = match error.kind {
        Kind::Usage => "help",
        Kind::NotFound => "jobs",
        Kind::Denied | Kind::Unreachable => "whoami",
        Kind::Refused | Kind::TimedOut => "status",
        Kind::NeedsRest => "login --server URL",
        Kind::Failed => "version",
    };
    let next = error.next.as_deref().unwrap_or(fallback);
    format!("error: {}\nnext: {program} {}\n", clean(&error.message), clean(next))
}

async fn run(context: &Context, verb: Verb) -> Result<u8> {
    let done = |()| 0;
    match verb {
        Verb::Status(args) => status::run(context, args).await.map(done),
        Verb::Jobs(args) => jobs::run(context, args).await.map(done),
        Verb::Why(args) => why::run(context, args).await.map(done),
        Verb::CanRun(args) => can_run::run(context, *args).await,
        Verb::Top(args) => top::run(context, args).await.map(done),
        Verb::Trace(args) => trace::run(context, args).await.map(done),
        Verb::Report(args) => report::run(context, args).await.map(done),
        Verb::Check(args) => check::run(context, args).await.map(done),
        Verb::Login(args) => login::run(context, args).await.map(done),
        Verb::Completion(args) => completion::run(context, &args).map(done),
        Verb::Complete { words } => completion::answer(context, &words).await.map(done),
        Verb::Submit(args) => submit::run(context, *args).await,
        Verb::Logs(args) => logs::run(context, args).await.map(done),
        Verb::Wait(args) => wait::run(context, args).await,
        Verb::Cancel(args) => cancel::run(context, args).await.map(done),
        Verb::Retry(args) => retry::run(context, args).await.map(done),
        Verb::Keys(args) => keys::run(context, args).await.map(done),
        Verb::Tenants(args) => tenants::run(context, args).await.map(done),
        Verb::Usage(args) => usage::run(context, args).await.map(done),
        Verb::Nodes(args) => nodes::run(context, args).await.map(done),
        Verb::Whoami => whoami::run(context).await.map(done),
        Verb::Version(args) => version::run(context, args).await.map(done),
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    #[test]
    fn help_says_what_the_user_typed() {
        for (path, expected) in
            [("/usr/bin/kubectl-crofter", "kubectl crofter"), ("crofterctl", "crofterctl")]
        {
            let program = program(Some(&OsString::from(path)));
            assert_eq!(program, expected);
            let help = command(&program).render_help().to_string();
            assert!(help.contains(&format!("Usage: {expected} [OPTIONS] <COMMAND>")), "{help}");
        }
        command("kubectl crofter").debug_assert();
    }

    #[test]
    fn an_error_ends_with_the_command_to_run_next_and_commands_no_terminal() {
        let error = Error::new(Kind::NotFound, "failed to find the job \u{1b}[2Jx: no\njob");
        let text = explained("kubectl crofter", &error);
        assert_eq!(text, "error: failed to find the job [2Jx: no job\nnext: kubectl crofter jobs\n");
        let text = explained("kubectl crofter", &Error::needs_rest("read the usage"));
        assert!(text.ends_with("next: kubectl crofter login --server URL\n"), "{text}");
    }

    #[test]
    fn the_page_has_each_exit_code() {
        let page = include_str!("../../docs/kubectl-crofter.md");
        let (_, section) = page.split_once("## Exit codes\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
        let rows: Vec<(u8, &str)> =
            rows.filter_map(|(code, words)| Some((code.parse().ok()?, words))).collect();
        // Words of each row that no other one has.
        let words = |kind: Kind| match kind {
            Kind::Failed => "failed otherwise",
            Kind::Usage => "the command line is wrong",
            Kind::NotFound => "does not exist",
            Kind::Denied => "credentials",
            Kind::Refused => "refused",
            Kind::Unreachable => "no server answered",
            Kind::TimedOut => "in time",
            Kind::NeedsRest => "only the REST API",
        };
        let mut expected = vec![(0, "done"), (CLOSED_OUTPUT, "the reader of the output has gone")];
        expected.extend(Kind::iter().map(|kind| (kind.exit_code(), words(kind))));
        expected.sort_unstable();
        assert_eq!(rows.len(), expected.len(), "{rows:?}");
        for ((code, words), (expected_code, part)) in rows.iter().zip(&expected) {
            assert!(code == expected_code && words.contains(part), "{code} {words}: {expected_code} {part}");
        }
        // Those of jobs, in one sentence.
        let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
        let of = |status: &str| {
            let status = Some(status.to_owned());
            follow::exit_code(&crate::client::model::Job { status, ..Default::default() })
        };
        for (status, part) in [
            ("timed_out", "where it ran out of time"),
            ("canceled", "where it was canceled"),
            ("rejected", "where it was rejected"),
        ] {
            assert!(section.contains(&format!("{} {part}", of(status))), "{status}: {section}");
        }
        assert!(section.contains(&format!("else {};", of("failed"))), "{section}");
    }

    #[test]
    fn a_namespace_names_its_tenant() {
        let of = |namespace: &str| {
            let connection = Connection { namespace_prefix: "tenant-".to_owned(), ..Connection::default() };
            let global = Global { connection, namespace: Some(namespace.to_owned()), ..Global::default() };
            // A flag has precedence over the variable.
            named_scope(&global, Some("other".to_owned()))
        };
        assert_eq!(of("tenant-acme").unwrap(), Some(Scope::Tenant("acme".to_owned())));
        for other in ["default", "tenant-"] {
            assert_eq!(of(other).unwrap_err().kind, Kind::Usage, "{other}");
        }
        let without_a_flag = named_scope(&Global::default(), Some("acme".to_owned())).unwrap();
        assert_eq!(without_a_flag, Some(Scope::Tenant("acme".to_owned())));
    }
}
