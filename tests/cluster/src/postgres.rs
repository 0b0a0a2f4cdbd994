//! A Postgres server of the cluster's own, from the system's binaries.
//!
//! It listens on the loopback address, and where there are real nodes on the address that pods reach, with a random
//! password. Durability is off: the data goes with the cluster.
//! Postgres refuses to run as root, so there it runs as the user `postgres` if the system has one, else as `nobody`.

use std::{
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    layout::{Layout, random_hex},
    ports::Port,
    process::{self, Process},
    requirements::find_program,
    wait,
};

/// Why there is no Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine has no Postgres server.
    #[error("no Postgres server found on PATH or below /usr/lib/postgresql: apt-get install postgresql")]
    NotInstalled,
    /// A file could not be made.
    #[error("preparing {path}")]
    Files {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The users of the machine are not known.
    #[error("neither a user postgres nor nobody in /etc/passwd; the server cannot run as root")]
    NoUser,
    /// `initdb` failed.
    #[error("initdb failed:\n{0}")]
    Initdb(String),
    /// No port is free.
    #[error("finding a free port")]
    Port(#[source] io::Error),
    /// The server could not be started.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The server does not answer.
    #[error("{timed_out}; the end of its log:\n{log}")]
    NotReady {
        /// What was waited for.
        timed_out: wait::TimedOut,
        /// What the server wrote.
        log: String,
    },
    /// A statement failed.
    #[error("creating the database {name}")]
    Create {
        /// The database.
        name: String,
        /// What the server said.
        source: sqlx::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    process: Mutex<Process>,
    port: Port,
    password: String,
    bin: PathBuf,
    dir: PathBuf,
    listen: Vec<Ipv4Addr>,
}

impl Postgres {
    /// Makes a new data directory and starts a server on it, which may not answer yet. It listens on the loopback
    /// address, and on `pod_facing` for all that have its password.
    pub(crate) fn start(layout: &Layout, pod_facing: Option<Ipv4Addr>) -> Result<Self, Error> {
        let bin = find_binaries().ok_or(Error::NotInstalled)?;
        let account = Account::choose()?;
        let dir = layout.root().join("postgres");
        let data = dir.join("data");
        let password = random_hex();
        let password_file = dir.join("password");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Files { path, source }
        };
        fs::create_dir(&dir).map_err(at(&dir))?;
        fs::write(&password_file, &password).map_err(at(&password_file))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(at(&dir))?;
        for path in [&dir, &password_file] {
            account.own(path).map_err(at(path))?;
        }
        let mut initdb = account.command(&bin.join("initdb"));
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--no-sync", "--no-instructions"]).arg("-D").arg(&data);
        initdb.arg(format!("--pwfile={}", password_file.display())).current_dir(&dir);
        let Output { status, stderr, .. } = initdb.output().map_err(at(&bin.join("initdb")))?;
        if !status.success() {
            return Err(Error::Initdb(String::from_utf8_lossy(&stderr).into_owned()));
        }
        let port = Port::reserve(Ipv4Addr::LOCALHOST).map_err(Error::Port)?;
        if pod_facing.is_some() {
            let rules = data.join("pg_hba.conf");
            let append =
                |text: &str| fs::OpenOptions::new().append(true).open(&rules)?.write_all(text.as_bytes());
            append("host all all all scram-sha-256\n").map_err(at(&rules))?;
        }
        let listen: Vec<_> = [Ipv4Addr::LOCALHOST].into_iter().chain(pod_facing).collect();
        let process = Mutex::new(serve(layout, &account, &bin, &dir, &port, &listen)?);
        Ok(Self { process, port, password, bin, dir, listen })
    }

    /// Starts a server that was killed again, on its port and its data. It may not answer yet.
    pub(crate) fn start_again(&self, layout: &Layout) -> Result<(), Error> {
        let mut process = self.process();
        if process.check().is_err() {
            *process = serve(layout, &Account::choose()?, &self.bin, &self.dir, &self.port, &self.listen)?;
        }
        Ok(())
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.url_at("127.0.0.1", database)
    }

    /// The address of a database of this server where the server is known as `host`.
    pub(crate) fn url_at(&self, host: &str, database: &str) -> String {
        format!("postgres://postgres:{}@{host}:{}/{database}", self.password, self.port.number())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let url = self.url("postgres");
        let check = async || PgConnection::connect(&url).await?.close().await;
        wait::until(Duration::from_secs(60), "Postgres to answer", check)
            .await
            .map_err(|timed_out| Error::NotReady { timed_out, log: process::tail(self.process().log(), 15) })
    }

    /// Creates an empty database and returns its address.
    pub(crate) async fn create_database(&self, name: &str) -> Result<String, Error> {
        let create = async {
            let mut connection = PgConnection::connect(&self.url("postgres")).await?;
            let quoted = name.replace('"', "\"\"");
            // Names cannot be bound as parameters; this one is quoted.
            let statement = sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""));
            connection.execute(statement).await?;
            connection.close().await
        };
        create.await.map_err(|source| Error::Create { name: name.to_owned(), source })?;
        Ok(self.url(name))
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        // A handle stays right whatever panicked while it was held.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the server.
fn serve(
    layout: &Layout,
    account: &Account,
    bin: &Path,
    dir: &Path,
    port: &Port,
    listen: &[Ipv4Addr],
) -> Result<Process, Error> {
    let mut server = account.command(&bin.join("postgres"));
    server.arg("-D").arg(dir.join("data")).arg("-p").arg(port.number().to_string()).current_dir(dir);
    let listen: Vec<_> = listen.iter().map(Ipv4Addr::to_string).collect();
    server.args(["-c", &format!("listen_addresses={}", listen.join(","))]);
    for setting in [
        "unix_socket_directories=",
        "max_connections=300",
        // What is committed need not outlive the machine, nor, where the client does not ask for that, the process.
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "timezone=UTC",
        "log_timezone=UTC",
    ] {
        server.args(["-c", setting]);
    }
    // SIGKILL would leave its shared memory behind; this is its "immediate" shutdown.
    Ok(Process::start_stopped_by(layout, "postgres", server, Signal::QUIT)?)
}

/// The directory of `initdb` and `postgres`: the newest version that the system has, or what is on `PATH`.
pub(crate) fn find_binaries() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = installed.map(|entry| entry.path()).filter(|dir| version(dir).is_some()).max_by_key(version);
    let debian = newest.map(|dir| dir.join("bin")).filter(|bin| bin.join("initdb").is_file());
    let on_path = || find_program("initdb").and_then(|path| path.parent().map(Path::to_path_buf));
    debian.or_else(on_path).filter(|bin| bin.join("postgres").is_file())
}

/// The user that the server runs as.
enum Account {
    Ours,
    Other { uid: u32, gid: u32 },
}

impl Account {
    fn choose() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ours);
        }
        let path = Path::new("/etc/passwd");
        let users =
            fs::read_to_string(path).map_err(|source| Error::Files { path: path.to_owned(), source })?;
        let ids = |name: &str| {
            let mut fields =
                users.lines().map(|line| line.split(':')).find(|f| f.clone().next() == Some(name))?;
            let uid = fields.nth(2)?.parse().ok()?;
            Some(Self::Other { uid, gid: fields.next()?.parse().ok()? })
        };
        ids("postgres").or_else(|| ids("nobody")).ok_or(Error::NoUser)
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ours => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(*uid), Some(*gid)),
        }
    }

    fn command(&self, program: &Path) -> Command {
        match self {
            Self::Ours => Command::new(program),
            Self::Other { uid, gid } => {
                // It executes the server in its own place: pid and signals are the server's.
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
        }
    }
}
