//! The programs of the cluster: built from Go modules on first use, cached after.
//!
//! A module under `tests/cluster` lists its programs as `tool` directives. They are built once into the user's cache
//! directory, under the hash of everything that decides the result (`go.mod`, `go.sum`, flags, what is mended), with a
//! file lock around it: of any number of test binaries that start at once, one builds, showing its progress, and the
//! others wait. A build ends with a rename, so that an interrupted one leaves nothing that could be taken for complete.
//!
//! Where `KUBEBUILDER_ASSETS` is set, the programs in that directory are taken first.

mod mend;

use std::{
    env, fs,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use self::mend::Mend;
use crate::requirements::find_program;

/// Why a program is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither cache directory nor home directory is known.
    #[error("where to cache the cluster's programs? Set HOME or XDG_CACHE_HOME")]
    NoCacheDir,
    /// A file could not be read or written.
    #[error("accessing {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no Go toolchain.
    #[error("running go, which builds the cluster's programs: install Go 1.26 or newer and put it on PATH")]
    NoGo(#[source] io::Error),
    /// The build failed.
    #[error("building the programs of {module} failed:\n{output}")]
    Build {
        /// The module's directory.
        module: PathBuf,
        /// The end of what the compiler said.
        output: String,
    },
    /// A program is in none of the directories.
    #[error("there is no {name} in {dirs:?}")]
    Missing {
        /// The program.
        name: String,
        /// The directories that were searched.
        dirs: Vec<PathBuf>,
    },
}

/// Between the tries to download modules.
const FETCH_PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];

/// A Go module whose `tool` directives are programs to build.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    /// Its directory below `tests/cluster`.
    pub dir: &'static str,
    /// Flags for the linker.
    pub ldflags: &'static str,
    /// Programs whose name is not the last element of their package, as (built, wanted).
    pub renamed: &'static [(&'static str, &'static str)],
    /// What is put right in the modules before they are built.
    pub mends: &'static [Mend],
    /// What is built, for the progress line.
    pub what: &'static str,
}

/// etcd, the Kubernetes components, kwok, kubectl and helm.
pub const CONTROL_PLANE: GoModule = GoModule {
    dir: "tools",
    // Without the stamp kubectl and Helm's kubeVersion see v0.0.0.
    ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
              -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
    renamed: &[("server", "etcd")],
    // kwok 0.7 and 0.8 begin each watch with a new list instead of where the last one ended. Under load, being sent all
    // pods again makes kwok so late that the API server ends that watch, too, and so on for minutes.
    mends: &[Mend {
        module: "sigs.k8s.io/kwok",
        file: "pkg/utils/informer/event.go",
        wrong: "if !o.EnableListPager || o.EnableStreamWatch {",
        right: "if opts.ResourceVersion == \"\" && (!o.EnableListPager || o.EnableStreamWatch) {",
    }],
    what: "the Kubernetes control plane",
};

/// The manager of Kueue, which the benchmark measures; nothing else needs it, so it is built for that only.
pub const KUEUE: GoModule = GoModule {
    dir: "tools-kueue",
    ldflags: "-s -w",
    renamed: &[],
    // Where it does not issue its own certificates it wants the one of its metrics at a fixed place of its container.
    mends: &[Mend {
        module: KUEUE_MODULE,
        file: "cmd/kueue/main.go",
        wrong: "metricsCertPath := \"/etc/kueue/metrics/certs\"",
        right: "metricsCertPath := cfg.Webhook.CertDir",
    }],
    what: "Kueue",
};

/// The module of [`KUEUE`], which has its CRDs and its default configuration, too.
pub const KUEUE_MODULE: &str = "sigs.k8s.io/kueue";

impl GoModule {
    /// The directory the programs are, or will be, in.
    ///
    /// # Errors
    /// When the module cannot be read or no cache directory is known.
    pub fn bin_dir(&self) -> Result<PathBuf, Error> {
        let mut hash = Sha256::new();
        for path in files_below(&self.source())? {
            hash.update(fs::read(&path).map_err(at(&path))?);
        }
        let mends = self.mends.iter().flat_map(|mend| [mend.module, mend.file, mend.wrong, mend.right]);
        for text in [self.ldflags, env::consts::OS, env::consts::ARCH].into_iter().chain(mends) {
            hash.update(text);
            hash.update([0]);
        }
        let digest = hash.finalize();
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(cache_dir()?.join(format!("{}-{name}", self.dir)))
    }

    /// Builds the programs if they are not in the cache, and returns the directory they are in.
    ///
    /// # Errors
    /// When there is no Go toolchain, the build fails, or the cache cannot be written.
    pub fn build(&self) -> Result<PathBuf, Error> {
        let bin = self.bin_dir()?;
        if bin.is_dir() {
            return Ok(bin);
        }
        let cache = cache_dir()?;
        fs::create_dir_all(&cache).map_err(at(&cache))?;
        let lock_path = cache.join(format!("{}.lock", self.dir));
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        if lock.try_lock().is_err() {
            say(&format!("waiting for another process that builds {}\n", self.what));
            lock.lock().map_err(at(&lock_path))?;
        }
        if !bin.is_dir() {
            let unfinished =
                tempfile::Builder::new().prefix(".building-").tempdir_in(&cache).map_err(at(&cache))?;
            self.run_go(unfinished.path())?;
            for (built, wanted) in self.renamed {
                let path = unfinished.path().join(built);
                fs::rename(&path, unfinished.path().join(wanted)).map_err(at(&path))?;
            }
            fs::rename(unfinished.path(), &bin).map_err(at(&bin))?;
        }
        Ok(bin)
    }

    /// Where Go keeps the source of a module that this one requires; nothing there may be written to.
    ///
    /// # Errors
    /// When there is no Go toolchain, or the module can't be had.
    pub fn source_of(&self, module: &str) -> Result<PathBuf, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Download {
            dir: PathBuf,
        }
        let found = self.fetch(&["mod", "download", "-json", module])?;
        let unclear = |source: serde_json::Error| at(Path::new(module))(source.into());
        Ok(serde_json::from_slice::<Download>(&found).map_err(unclear)?.dir)
    }

    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.dir)
    }

    fn go(&self) -> Command {
        let mut go = Command::new(find_program("go").unwrap_or_else(|| "go".into()));
        go.current_dir(self.source()).env("CGO_ENABLED", "0").stdin(Stdio::null()).stderr(Stdio::piped());
        go
    }

    fn run_go(&self, out: &Path) -> Result<(), Error> {
        say(&format!("building {} (once; minutes when Go has compiled nothing of it yet)\n", self.what));
        let packages = self.count_packages()?;
        let mended = tempfile::tempdir().map_err(at(&env::temp_dir()))?;
        for name in ["go.mod", "go.sum"] {
            let path = self.source().join(name);
            fs::copy(&path, mended.path().join(name)).map_err(at(&path))?;
        }
        self.mends.iter().try_for_each(|mend| mend.apply(self, mended.path()))?;
        let mut child = self
            .go()
            .args(["build", "-v", "-ldflags", self.ldflags])
            .arg(format!("-modfile={}", mended.path().join("go.mod").display()))
            .arg("-o")
            // The trailing slash makes it a directory even where there is one tool only.
            .arg(format!("{}/", out.display()))
            .arg("tool")
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::NoGo)?;
        let started = Instant::now();
        let mut progress = Progress { what: self.what, packages, compiled: 0, shown: None, started };
        let mut output: Vec<String> = Vec::new();
        // `-v` names each package as it is compiled; what is in Go's own cache is not named.
        for line in child.stderr.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
            let line = line.map_err(Error::NoGo)?;
            progress.package(&line);
            output.push(line);
        }
        let status = child.wait().map_err(Error::NoGo)?;
        if !status.success() {
            let output = output.get(output.len().saturating_sub(20)..).unwrap_or_default().join("\n");
            return Err(Error::Build { module: self.source(), output });
        }
        let before = if io::stderr().is_terminal() { CLEAR_LINE } else { "" };
        say(&format!("{before}built {} in {} s\n", self.what, started.elapsed().as_secs()));
        Ok(())
    }

    /// Counts the packages, for which Go downloads all modules that the build needs.
    fn count_packages(&self) -> Result<usize, Error> {
        let list = self.fetch(&["list", "-deps", "tool"])?;
        Ok(list.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// What a command of Go's prints that downloads modules, tried again where it fails: their server may be away for a
    /// moment.
    fn fetch(&self, arguments: &[&str]) -> Result<Vec<u8>, Error> {
        for pause in FETCH_PAUSES {
            match self.run(arguments.iter().copied()) {
                Err(Error::Build { output, .. }) => say(&format!("trying again in {pause:?}: {output}\n")),
                result => return result,
            }
            thread::sleep(pause);
        }
        self.run(arguments.iter().copied())
    }

    /// What a command of Go's prints.
    fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Vec<u8>, Error> {
        let done = self.go().args(arguments).output().map_err(Error::NoGo)?;
        if !done.status.success() {
            let output = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(Error::Build { module: self.source(), output });
        }
        Ok(done.stdout)
    }
}

/// Back to the first column, and erase the line.
const CLEAR_LINE: &str = "\r\x1b[K";

struct Progress {
    what: &'static str,
    packages: usize,
    compiled: usize,
    shown: Option<Instant>,
    started: Instant,
}

impl Progress {
    fn package(&mut self, line: &str) {
        self.compiled += 1;
        // A terminal shows one line that changes; a log gets a line now and then.
        let terminal = io::stderr().is_terminal();
        let interval = Duration::from_secs(if terminal { 1 } else { 20 });
        if self.shown.is_none_or(|at| at.elapsed() >= interval) {
            self.shown = Some(Instant::now());
            let Self { what, packages, compiled, started, .. } = self;
            let (before, after) = if terminal { (CLEAR_LINE, "") } else { ("", "\n") };
            let seconds = started.elapsed().as_secs();
            say(&format!(
                "{before}building {what}: {compiled} of up to {packages} packages, {seconds} s: {line}{after}"
            ));
        }
    }
}

/// Progress is for whoever waits at the terminal: unlike `eprint!`, this is not captured by the test harness.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    // A closed terminal is no reason to fail a build.
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

/// The programs of the cluster, wherever they are.
#[derive(Clone, Debug)]
pub struct Tools {
    dirs: Vec<PathBuf>,
}

impl Tools {
    /// What `start` needs: taken from `KUBEBUILDER_ASSETS`, and from the built module where that has gaps.
    ///
    /// # Errors
    /// When something had to be built and that failed.
    pub fn control_plane() -> Result<Self, Error> {
        let assets = env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        Self { dirs: assets.into_iter().collect() }.and(&CONTROL_PLANE, &NEEDED)
    }

    /// Adds a module's programs, building it unless all of `needed` exist already.
    ///
    /// # Errors
    /// When something had to be built and that failed.
    pub fn and(mut self, module: &GoModule, needed: &[&str]) -> Result<Self, Error> {
        if !needed.iter().all(|name| self.path(name).is_ok()) {
            self.dirs.push(module.build()?);
        }
        Ok(self)
    }

    /// The path of a program.
    ///
    /// # Errors
    /// When it is in none of the directories.
    pub fn path(&self, name: &str) -> Result<PathBuf, Error> {
        self.dirs
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Missing { name: name.to_owned(), dirs: self.dirs.clone() })
    }

    /// The directories, best first.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }
}

const NEEDED: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kubectl", "helm"];

/// The files of a module, in a fixed order: its list of programs, and the programs whose source is its own.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(at(dir))?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn cache_dir() -> Result<PathBuf, Error> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|dir| dir.join("crofter"))
        .ok_or(Error::NoCacheDir)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}
