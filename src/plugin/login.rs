//! `login`: writes a profile, once the server has accepted the key. The key is read from a file, the environment, standard
//! input, or a prompt that does not show it; never from the command line, which others can read.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};

use super::{Context, tenant_of_variable};
use crate::client::{
    Error, Kind, Result, Transport,
    profile::{Profile, Profiles},
    rest::Rest,
};

/// The name of a profile that is given none.
const DEFAULT: &str = "default";

/// The flags of the verb. The server is that of `--server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the profile without asking the server
    #[arg(long)]
    offline: bool,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let flags = &context.global.connection;
    let server = flags.url().ok_or_else(|| {
        Error::usage("failed to log in: give the URL of the REST API with --server")
            .next("login --server URL")
    })?;
    let path = flags.profiles()?;
    // What is there is read first: a file that can't be read is not replaced.
    let mut profiles = Profiles::read(&path)?;
    let token = match flags.credentials(|name| std::env::var(name).ok())? {
        Some(token) => token,
        None => asked()?,
    };
    let ca = flags.ca.as_ref().map(|ca| std::path::absolute(ca).unwrap_or_else(|_| ca.clone()));
    let rest = Rest::new(&server, token.clone(), ca.as_deref(), flags.verbose)?;
    if is_exposed(&server) {
        context.terminal.remark("warning: the URL is http: whoever is on the way can read the key");
    }
    let who = if args.offline { None } else { Some(rest.whoami().await?) };
    let name = flags.profile.as_deref().unwrap_or(DEFAULT);
    let tenant = context.global.tenant.clone().or_else(tenant_of_variable);
    let profile = Profile { server: rest.address(), token: token.expose_secret().to_owned(), ca, tenant };
    profiles.profiles.insert(name.to_owned(), profile);
    profiles.current = Some(name.to_owned());
    profiles.write(&path)?;
    let who = who.map_or("unchecked".to_owned(), |who| format!("{} {}", who.kind, who.name));
    context.terminal.remark(&format!("the profile {name} is in {}: {server} as {who}", path.display()));
    Ok(())
}

/// Whether requests to a URL can be read on the way: HTTP to another machine.
fn is_exposed(server: &str) -> bool {
    let host = server.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    host.is_some_and(|host| {
        host != "localhost" && !host.starts_with("127.") && !server.starts_with("http://[::1]")
    })
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden(Option<Termios>);

impl Hidden {
    fn new() -> Self {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            hidden.local_modes.insert(LocalModes::ECHONL);
            // Without it the prompt shows what is typed, and still works.
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
        }
        Self(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The key from standard input: a prompt where that is a terminal.
fn asked() -> Result<SecretString> {
    let failed = |cause: &str| {
        Error::new(Kind::Usage, format!("failed to read the key: {cause}"))
            .next("login --server URL --key-file FILE")
    };
    // What is typed from the prompt on is neither shown nor discarded.
    let hidden = io::stdin().is_terminal().then(Hidden::new);
    if hidden.is_some() {
        drop(write!(io::stderr().lock(), "API key or token: "));
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    drop(hidden);
    read.map_err(|error| failed(&error.to_string()))?;
    let key = line.trim();
    if key.is_empty() { Err(failed("nothing was given")) } else { Ok(SecretString::from(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_over_http_to_another_machine_is_exposed() {
        for (server, expected) in [
            ("http://crofter.example.org", true),
            ("http://127.0.0.1:8080", false),
            ("http://localhost/x", false),
            ("http://[::1]:1", false),
            ("http://localhost.example.org", true),
            ("https://crofter.example.org", false),
        ] {
            assert_eq!(is_exposed(server), expected, "{server}");
        }
    }
}
