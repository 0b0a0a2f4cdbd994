//! An image of this machine's Postgres, which starts as the official image does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, Image};
use crate::{postgres::find_binaries, requirements::find_program};

const ENTRYPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/postgres/entrypoint.sh");
/// What the entrypoint and probes run.
const PROGRAMS: [&str; 6] = ["postgres", "initdb", "pg_ctl", "createdb", "psql", "pg_isready"];
/// What a new data directory needs.
const MODULES: [&str; 2] = ["dict_snowball.so", "plpgsql.so"];
const APPLETS: [&str; 5] = ["sh", "mkdir", "chmod", "rm", "id"];
/// The users of the official image: `postgres` has the same ids there.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n";

/// An image whose containers run Postgres as the official one does: user 999, by `POSTGRES_USER`, `POSTGRES_PASSWORD`,
/// `POSTGRES_DB` and `PGDATA`, listening on all addresses, stopped by SIGINT.
///
/// # Errors
/// When this machine lacks Postgres or busybox, or a file cannot be read.
pub fn postgres(reference: &str) -> Result<Image, Error> {
    let bin = find_binaries().ok_or(Error::Missing("postgresql"))?;
    let busybox = find_program("busybox").ok_or(Error::Missing("busybox-static"))?;
    // Debian's: /usr/lib/postgresql/15/bin, /usr/lib/postgresql/15/lib and /usr/share/postgresql/15.
    let home = bin.parent().unwrap_or(&bin);
    let share = Path::new("/usr/share/postgresql").join(home.file_name().unwrap_or_default());

    let mut image = Image::new(reference)
        .libraries_of(&busybox)?
        .executable("bin/busybox", &busybox)
        .directory("run", 0o755)
        .directory("tmp", 0o1777)
        .link("var/run", "/run")
        .text("etc/passwd", PASSWD)
        .text("etc/group", "root:x:0:\npostgres:x:999:\n")
        .executable("usr/share/zoneinfo/UTC", Path::new("/usr/share/zoneinfo/UTC"))
        .executable("usr/local/bin/entrypoint.sh", Path::new(ENTRYPOINT));
    for applet in APPLETS {
        image = image.link(format!("bin/{applet}"), "busybox");
    }
    for program in PROGRAMS {
        let file = bin.join(program);
        image = image.libraries_of(&file)?.executable(inside(&file), &file);
        image = image.link(format!("usr/local/bin/{program}"), &file);
    }
    for module in MODULES {
        let file = home.join("lib").join(module);
        image = image.libraries_of(&file)?.executable(inside(&file), &file);
    }
    for file in files(&share)? {
        image = image.executable(inside(&file), &file);
    }
    let sample = share.join("postgresql.conf.sample");
    let settings = fs::read_to_string(&sample);
    let settings = settings.map_err(|source| Error::Read { path: sample.clone(), source })?;
    image = image.text(inside(&sample), &format!("{settings}\nlisten_addresses = '*'\n"));
    image.entrypoint = vec!["/usr/local/bin/entrypoint.sh".to_owned()];
    image.stop_signal = Some("SIGINT");
    Ok(image)
}

/// A path without its slash.
fn inside(file: &Path) -> PathBuf {
    file.strip_prefix("/").unwrap_or(file).to_owned()
}

/// The files of a directory and all below it, but for the manual.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        match path.is_dir() {
            true if path.ends_with("man") => (),
            true => files.extend(self::files(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}
