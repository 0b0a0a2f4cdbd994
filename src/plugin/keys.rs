//! `keys list|create|rotate|revoke`: the API keys of a tenant.
//!
//! A token is shown only where it is asked for: on standard output with `--show-token`, or in a file of its own with
//! `--token-file`. The REST API shows a token once, so there one of the two must be given before anything is changed; with a
//! kubeconfig the token is in the key's Secret, and reading it is the user's choice.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Context, Session,
    output::{self, Format, names, structured},
    table::{Cell, Style, age, span, table},
};
use crate::client::{Error, IssuedKey, Kind, NewKey, Result, model::Key};

/// The scopes of keys, all of them.
const SCOPES: [&str; 5] = ["jobs:read", "jobs:write", "keys:read", "keys:write", "tenant:read"];

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the keys of a tenant
    #[command(visible_alias = "ls")]
    List,
    /// Create a key
    Create(Create),
    /// Make a new version of a key; the previous one stays valid for the key's overlap
    Rotate {
        /// Name, id or key id
        #[arg(value_parser = output::named("key"))]
        key: String,
        #[command(flatten)]
        token: TokenFlags,
    },
    /// End a key for good
    Revoke {
        /// Name, id or key id
        #[arg(value_parser = output::named("key"))]
        key: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Name of the key
    name: Option<String>,
    /// What the key may do
    #[arg(long, value_delimiter = ',', required = true, value_parser = SCOPES, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Name for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// When it expires, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    /// How often it is rotated by itself, such as 720h
    #[arg(long, value_name = "TIME")]
    rotate_every: Option<String>,
    #[command(flatten)]
    token: TokenFlags,
}

/// Where a token goes.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct TokenFlags {
    /// Print the token on standard output
    #[arg(long)]
    show_token: bool,
    /// Write the token into a new file that only its owner may read
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenFlags {
    fn wants(&self) -> bool {
        self.show_token || self.token_file.is_some()
    }

    /// Refuses what would lose a token, before anything is changed.
    fn check(&self, session: &Session, verb: &str) -> Result<()> {
        if !self.wants() && !session.transport.keeps_tokens() {
            let message = format!(
                "failed to {verb} the key: the REST API shows the token once: give --token-file FILE or --show-token"
            );
            return Err(Error::usage(message).next(format!("keys {verb} --help")));
        }
        match &self.token_file {
            Some(file) if file.exists() => {
                let message = format!(
                    "failed to {verb} the key: {} exists: give the name of a new file",
                    file.display()
                );
                Err(Error::usage(message).next(format!("keys {verb} --help")))
            }
            _ => Ok(()),
        }
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    match args.verb {
        Verb::List => {
            let keys = session.transport.keys(&session.scope).await?;
            let text = match structured(context.format(), &serde_json::json!({"keys": keys}))? {
                Some(text) => text,
                None => rendered(&keys, context.format(), context.clock.now(), context.terminal.color),
            };
            context.terminal.print(&text)?;
            if keys.is_empty() && context.format() == Format::Table {
                context.terminal.remark("no keys");
            }
        }
        Verb::Create(create) => {
            create.token.check(&session, "create")?;
            let key = NewKey {
                name: create.name,
                display_name: create.display_name,
                scopes: create.scope,
                expires_at: create.expires_at,
                rotate_every: create.rotate_every,
            };
            let issued = session.transport.create_key(&session.scope, &key, create.token.wants()).await?;
            show(context, "created", &issued, &create.token)?;
        }
        Verb::Rotate { key, token } => {
            token.check(&session, "rotate")?;
            let key = find(&session, &key).await?;
            let issued = session.transport.rotate_key(&session.scope, &key, token.wants()).await?;
            show(context, "rotated", &issued, &token)?;
        }
        Verb::Revoke { key } => {
            let key = find(&session, &key).await?;
            session.transport.revoke_key(&session.scope, &key).await?;
            context.terminal.print(&names("key", [key.name.as_str()]))?;
        }
    }
    Ok(())
}

/// The key of this name, id or key id.
async fn find(session: &Session, name: &str) -> Result<Key> {
    let keys = session.transport.keys(&session.scope).await?;
    let is_it = |key: &Key| {
        key.name == name
            || key.id == name
            || key.key_id.as_deref() == Some(name)
            || key.display_name.as_deref() == Some(name)
    };
    let mut found: Vec<Key> = keys.into_iter().filter(is_it).collect();
    match (found.pop(), found.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => {
            Err(Error::usage(format!("failed to find the key {name}: several have this name: give its id"))
                .next("keys list -o wide"))
        }
        (None, _) => Err(Error::new(
            Kind::NotFound,
            format!("failed to find the key {name}: the tenant has none of this name"),
        )
        .next("keys list")),
    }
}

fn show(context: &Context, verb: &str, issued: &IssuedKey, flags: &TokenFlags) -> Result<()> {
    let terminal = context.terminal;
    let name = &issued.key.name;
    if let Some(text) = structured(context.format(), &issued.key)? {
        terminal.print(&text)?;
    }
    match (&issued.token, &flags.token_file) {
        (Some(token), Some(file)) => {
            write_token(file, token).inspect_err(|_| {
                // It is shown nowhere else.
                terminal.remark(&format!("the key {name} is {verb}: rotate it for another token"));
            })?;
            terminal.remark(&format!("the key {name} is {verb}; its token is in {}", file.display()));
        }
        (Some(token), None) if flags.show_token => {
            terminal.remark(&format!("the key {name} is {verb}; its token is shown this once"));
            terminal.print(&format!("{}\n", token.expose_secret()))?;
        }
        (None, _) if flags.wants() => {
            terminal.remark(&format!(
                "the key {name} is {verb}; its token is not issued yet: rotate it for another one"
            ));
        }
        _ => {
            let stored = issued.stored.as_deref().unwrap_or("nowhere but in the response");
            terminal.remark(&format!("the key {name} is {verb}; its token is in the {stored}"));
            if context.format() == Format::Name || context.format() == Format::Table {
                terminal.print(&names("key", [name.as_str()]))?;
            }
        }
    }
    Ok(())
}

/// Writes a token into a new file, which only its owner may read from its first byte on.
fn write_token(file: &Path, token: &SecretString) -> Result<()> {
    let written = || {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        new.write_all(token.expose_secret().as_bytes())?;
        new.write_all(b"\n")?;
        new.sync_all()
    };
    written().map_err(|error| {
        Error::new(Kind::Failed, format!("failed to write the token into {}: {error}", file.display()))
            .next("keys list")
    })
}

fn rendered(keys: &[Key], format: Format, now: Timestamp, color: bool) -> String {
    if format == Format::Name {
        return names("key", keys.iter().map(|key| key.name.as_str()));
    }
    if keys.is_empty() {
        return String::new();
    }
    let wide = format == Format::Wide;
    let mut header = vec!["NAME", "KEY ID", "ACTIVE", "REASON", "EXPIRES IN", "ROTATES", "SCOPES", "AGE"];
    if wide {
        header.extend(["DISPLAY NAME", "ID"]);
    }
    let row = |key: &Key| {
        let text = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or_default());
        let (word, style) = if key.active { ("yes", Style::Good) } else { ("no", Style::Bad) };
        let expires = match key.expires_at {
            None => "never".to_owned(),
            Some(at) if at <= now => "expired".to_owned(),
            Some(at) => span(at.duration_since(now).as_secs()),
        };
        let mut row = vec![
            Cell::from(&key.name),
            text(&key.key_id),
            Cell::styled(word, style),
            text(&key.reason),
            expires.into(),
            key.rotate_every.as_deref().unwrap_or("never").into(),
            key.scopes.join(",").into(),
            age(now, key.created_at).into(),
        ];
        if wide {
            row.extend([text(&key.display_name), Cell::from(&key.id)]);
        }
        row
    };
    table(&header, keys.iter().map(row).collect(), color)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_a_table_without_tokens() {
        let keys: Vec<Key> = serde_json::from_value(json!([
            {"id": "u", "name": "ci", "scopes": ["jobs:read", "jobs:write"], "key_id": "abcdefghijkl", "active": true,
             "reason": "KeyAccepted", "created_at": "2030-01-01T00:00:00Z", "expires_at": "2030-01-11T00:00:00Z", "rotate_every": "720h"},
            {"id": "v", "name": "old\u{1b}[2J", "scopes": [], "active": false, "reason": "KeyRevoked", "revoked": true,
             "display_name": "of Ann", "expires_at": "2029-01-01T00:00:00Z"},
        ]))
        .unwrap();
        let now = "2030-01-01T12:00:00Z".parse().unwrap();
        insta::assert_snapshot!(rendered(&keys, Format::Wide, now, false));
    }

    #[test]
    fn a_token_file_is_new_and_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("token");
        write_token(&file, &"crft_x".into()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "crft_x\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let error = write_token(&file, &"crft_geheim".into()).unwrap_err();
        assert!(!error.message.contains("geheim"), "{error}");
    }
}
