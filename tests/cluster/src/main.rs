//! Brings up a test cluster from the command line.
//!
//! `up` stays until Ctrl-C and then leaves nothing behind; `build` makes the programs beforehand; `check` says what the
//! machine has and lacks; `path` says where the programs are; `image` packs a built operator.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    num::ParseIntError,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use crofter_test_cluster::{
    Cluster, NodeSpec,
    image::{self, Details},
    real,
    requirements::{self, Requirement},
    tools::{CONTROL_PLANE, GoModule, Tools},
};
use tokio::signal::unix::{SignalKind, signal};

/// A real Kubernetes control plane with simulated and real nodes, and Postgres.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring up a cluster; Ctrl-C ends it.
    Up(Up),
    /// Build the programs, if they are not built yet.
    Build,
    /// Say what is installed and what is missing.
    Check,
    /// Print the directories of the programs, for PATH.
    Path,
    /// Write the image of an operator: an OCI layout and an archive of it. Prints its digest.
    Image(Pack),
}

#[derive(Debug, clap::Args)]
struct Pack {
    /// The operator's binary, stripped.
    #[arg(long, value_name = "PATH")]
    binary: PathBuf,
    /// The directory of the layout (`oci`), the archive (`crofter-VERSION.tar`) and the digest (`digest`).
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The repository in the image's name, with its host, as container runtimes have it. The default is the chart's
    /// `crofter`.
    #[arg(long, default_value = "docker.io/library/crofter")]
    repository: String,
    /// The version, which is the tag.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// The commit that the binary was built from.
    #[arg(long)]
    revision: Option<String>,
    /// The URL of the source code.
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// When the image was created, in seconds since 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    created: i64,
    /// A file of CA certificates, or a directory of files *.crt.
    #[arg(long, value_name = "PATH", default_value = image::CERTIFICATES)]
    certificates: PathBuf,
    /// Fail when a download of the image is larger, in MiB.
    #[arg(long, default_value_t = 30)]
    max_size: u64,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// How many simulated nodes to add.
    #[arg(long, default_value_t = 0)]
    kwok_nodes: u32,
    /// How many real nodes to add; `auto` is two where the machine can run them, else none.
    #[arg(long, default_value = "0")]
    real_nodes: RealNodes,
    /// Without a database.
    #[arg(long)]
    no_postgres: bool,
    /// Where to write KUBECONFIG, DATABASE_URL, PATH and CLUSTER_DIR, as lines for a shell to read.
    #[arg(long, value_name = "PATH")]
    env_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum RealNodes {
    Auto,
    Exactly(usize),
}

impl FromStr for RealNodes {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Exactly) }
    }
}

impl RealNodes {
    fn count(self) -> usize {
        match self {
            Self::Exactly(count) => count,
            Self::Auto => match real::available() {
                Ok(()) => 2,
                Err(missing) => {
                    eprintln!("no real nodes here:");
                    missing.iter().for_each(|what| eprintln!("  {what}"));
                    0
                }
            },
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Task::Up(up) => up.run()?,
        Task::Build => drop(real::tools(Tools::control_plane()?)?),
        Task::Check => return Ok(check()),
        Task::Image(pack) => pack.run()?,
        Task::Path => println!("{}", search_path(Tools::control_plane()?.dirs())?),
    }
    Ok(ExitCode::SUCCESS)
}

impl Up {
    #[tokio::main]
    async fn run(self) -> anyhow::Result<()> {
        // Listened to from here on, so that an impatient Ctrl-C cannot end this process with the cluster half down.
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .context("listening for signals")?;
        let mut asked_to_end =
            futures::future::select_all(ends.iter_mut().map(|end| Box::pin(async move { end.recv().await })));
        tokio::select! {
            result = self.bring_up() => {
                let cluster = result?;
                asked_to_end.await;
                eprintln!("stopping");
                drop(cluster);
            }
            // The reaper ends a cluster that is half started.
            _ = &mut asked_to_end => std::process::exit(130),
        }
        Ok(())
    }

    async fn bring_up(self) -> anyhow::Result<Cluster> {
        let builder = Cluster::builder().postgres(!self.no_postgres).real_nodes(self.real_nodes.count());
        let cluster = tokio::task::spawn_blocking(|| builder.start()).await??;
        let nodes: Vec<NodeSpec> =
            (1..=self.kwok_nodes).map(|number| NodeSpec::new(format!("kwok-{number}"))).collect();
        cluster.add_nodes(&nodes).await?;
        let environment = environment(&cluster)?;
        if let Some(path) = &self.env_file {
            // Complete or absent: other programs read this file as soon as it exists.
            let partial = path.with_extension("partial");
            fs::write(&partial, &environment)
                .and_then(|()| fs::rename(&partial, path))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        print!("{environment}");
        eprintln!("ready; Ctrl-C ends it");
        Ok(cluster)
    }
}

impl Pack {
    fn run(self) -> anyhow::Result<()> {
        let Self { binary, out, repository, version, .. } = &self;
        let details = Details {
            version,
            revision: self.revision.as_deref(),
            source: self.source.as_deref(),
            created: self.created,
        };
        let certificates = image::certificates(&self.certificates)?;
        let image = image::operator(&format!("{repository}:{version}"), binary, &certificates, details)?;
        let layout = image.write_layout(&out.join("oci"))?;
        let size = layout.download_size();
        anyhow::ensure!(
            size <= self.max_size.saturating_mul(1 << 20),
            "the image has {size} bytes compressed, and --max-size is {} MiB",
            self.max_size
        );
        let archive = image.archive(&layout, &out.join(format!("crofter-{version}.tar")))?;
        let digest = out.join("digest");
        fs::write(&digest, &archive.digest)
            .with_context(|| format!("failed to write {}", digest.display()))?;
        eprintln!("{}: {size} bytes compressed in {} layers", archive.path.display(), layout.layers.len());
        println!("{}", archive.digest);
        Ok(())
    }
}

/// Lines that a shell can read.
fn environment(cluster: &Cluster) -> anyhow::Result<String> {
    let mut text = format!(
        "export KUBECONFIG={}\nexport CLUSTER_DIR={}\nexport PATH={}:$PATH\n",
        cluster.kubeconfig().display(),
        cluster.dir().display(),
        search_path(cluster.bin_dirs())?,
    );
    if let Some(url) = cluster.database_url() {
        writeln!(text, "export DATABASE_URL={url}")?;
    }
    Ok(text)
}

fn search_path(dirs: &[PathBuf]) -> anyhow::Result<String> {
    let joined = std::env::join_paths(dirs.iter().map(PathBuf::as_path).map(Path::as_os_str))?;
    Ok(joined.to_string_lossy().into_owned())
}

/// Prints what exists and what is missing; fails when something is missing that every cluster needs: real nodes are
/// optional.
fn check() -> ExitCode {
    let needed = requirements::control_plane();
    println!("control plane and Postgres:");
    let complete = report(&needed);
    report_built(&CONTROL_PLANE);
    println!("real nodes:");
    match real::available() {
        Ok(()) => report_built(&real::NODE_TOOLS),
        Err(missing) => missing.iter().for_each(|what| println!("  MISSING: {what}")),
    }
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_built(module: &GoModule) {
    match module.bin_dir() {
        Ok(dir) if dir.is_dir() => println!("  programs are built in {}", dir.display()),
        Ok(_) => println!("  programs are not built yet: the first start does it, or `build`"),
        Err(error) => println!("  {error}"),
    }
}

fn report(requirements: &[Requirement]) -> bool {
    for Requirement { name, found, .. } in requirements {
        println!("  {name}: {}", found.as_deref().unwrap_or("MISSING"));
    }
    let missing = || requirements.iter().filter(|requirement| requirement.found.is_none());
    let packages: BTreeSet<&str> =
        missing().map(|r| r.package).filter(|package| !package.is_empty()).collect();
    if !packages.is_empty() {
        println!("  install them with: apt-get install {}", Vec::from_iter(packages).join(" "));
    }
    missing().next().is_none()
}
