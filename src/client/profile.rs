//! The profiles that `login` writes: where a REST API is, and the credentials for it.
//!
//! The file is `$XDG_CONFIG_HOME/crofter/config.yaml` (by default below `~/.config`), readable by its owner alone (0600) from
//! its first byte on. It is replaced whole, so that it is never half written. One that others may read is refused.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::yaml;

/// All profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The one that is used without `--profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// One REST API and how to use it. `Debug` does not show the credentials.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its URL.
    pub server: String,
    /// An API key or a Kubernetes token.
    pub token: String,
    /// File with the certificates of its authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The tenant that a token acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("server", &self.server).field("tenant", &self.tenant).finish()
    }
}

/// Where the file is, from the environment.
///
/// # Errors
/// Neither `XDG_CONFIG_HOME` nor `HOME` is an absolute path.
pub fn path(variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let base = base.ok_or_else(|| {
        Error::usage("failed to find the profiles: neither XDG_CONFIG_HOME nor HOME is an absolute path")
    })?;
    Ok(base.join("crofter").join("config.yaml"))
}

fn failed(verb: &str, path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::usage(format!("failed to {verb} the profiles in {}: {cause}", path.display()))
}

impl Profiles {
    /// Reads the file; no profiles where it does not exist.
    ///
    /// # Errors
    /// It can't be read, is not of this form, or others than its owner may read it. The error never has a part of its content.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed("read", path, error)),
        };
        let mode = fs::metadata(path).map_err(|error| failed("read", path, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let cause = format!(
                "its mode is {:o}, so that others may read the keys in it: run chmod 600 {}",
                mode & 0o777,
                path.display()
            );
            return Err(failed("read", path, cause));
        }
        // The reader's error may quote the text.
        yaml::read(&text)
            .map_err(|_| failed("read", path, "it is not what login writes: delete it and log in again"))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = yaml::write(self).map_err(|error| failed("write", path, error))?;
        let written = || -> io::Result<()> {
            if let Some(directory) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            let whole = path.with_extension(format!("yaml.{}", std::process::id()));
            // What an earlier process of this number left may have another mode.
            match fs::remove_file(&whole) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&whole)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&whole, path)
        };
        written().map_err(|error| failed("write", path, error))
    }

    /// The profile of this name, or the current one; `None` where none is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn get(&self, name: Option<&str>) -> Result<Option<&Profile>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        let known = || self.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.profiles.get(name).map(Some).ok_or_else(|| {
            Error::usage(format!("failed to find the profile {name}: there are [{}]", known()))
                .next(format!("login --profile {name} --server URL"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(token: &str) -> Profiles {
        let profile =
            Profile { server: "https://c".to_owned(), token: token.to_owned(), ca: None, tenant: None };
        Profiles { current: Some("a".to_owned()), profiles: [("a".to_owned(), profile)].into() }
    }

    #[test]
    fn the_file_is_its_owners_alone_and_is_replaced_whole() {
        // Given a file of profiles in a directory that does not exist yet.
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x/crofter/config.yaml");
        assert_eq!(Profiles::read(&path).unwrap(), Profiles::default());
        one("first").write(&path).unwrap();
        one("second").write(&path).unwrap();
        // It has the last content, and no other file is left.
        assert_eq!(Profiles::read(&path).unwrap(), one("second"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // One that others may read is refused.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Profiles::read(&path).unwrap_err();
        assert!(error.message.contains("mode is 640"), "{error}");
        assert!(!error.message.contains("second"), "{error}");
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_token() {
        assert!(!format!("{:?}", one("geheim")).contains("geheim"));
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.yaml");
        fs::write(&path, "profiles: {a: {server: s, token: geheim, tokn: geheim}}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Profiles::read(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
    }

    #[test]
    fn the_place_is_below_the_users_configuration() {
        let of = |config: &str, home: &str| {
            path(|name| Some(if name == "HOME" { home } else { config }.to_owned()))
        };
        assert_eq!(of("/c", "/h").unwrap(), Path::new("/c/crofter/config.yaml"));
        assert_eq!(of("relative", "/h").unwrap(), Path::new("/h/.config/crofter/config.yaml"));
        assert!(of("", "").is_err());
    }

    #[test]
    fn a_profile_that_does_not_exist_is_named_with_those_that_do() {
        let error = one("t").get(Some("b")).unwrap_err();
        assert_eq!(error.message, "failed to find the profile b: there are [a]");
    }
}
