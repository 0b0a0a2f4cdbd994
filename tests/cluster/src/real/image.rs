//! Container images without a registry: files on disk become one archive that containerd imports.
//!
//! The archive is what `docker save` writes: a manifest, a configuration and one layer. It is reproducible (sorted
//! names, no times, owner root), so the same files give the same image.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Seek, Write},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Error, command};

/// An image to be written with [`Image::write`].
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    entries: BTreeMap<PathBuf, Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32 },
    Executable(PathBuf),
    Text(String),
    Link(PathBuf),
}

impl Image {
    /// An empty image. The reference needs a host and a tag, such as `crofter.test/tool:1`: with another tag than
    /// `latest` a pod's pull policy is `IfNotPresent`, and an imported image is present.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
        }
    }

    /// `crofter.test/busybox:1`: the machine's busybox with all its applets, run as `nobody` unless the pod says
    /// otherwise.
    ///
    /// # Errors
    /// When busybox cannot be run.
    pub fn busybox(busybox: &Path) -> Result<Self, Error> {
        let list = command::output(Command::new(busybox).arg("--list"))?;
        let mut image = Self::new("crofter.test/busybox:1")
            .program("bin/busybox", busybox)?
            .directory("tmp", 0o1777)
            .text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
            .text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
            .user("65534:65534");
        for applet in list.lines().filter(|&applet| applet != "busybox") {
            image = image.link(format!("bin/{applet}"), "busybox");
        }
        image.entrypoint = Vec::new();
        image.command = vec!["/bin/sh".to_owned()];
        Ok(image)
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.with(path, Entry::Directory { mode })
    }

    /// Adds a file of this machine, executable by all. `path` has no leading slash.
    #[must_use]
    pub fn executable(self, path: impl Into<PathBuf>, file: &Path) -> Self {
        self.with(path, Entry::Executable(file.to_owned()))
    }

    /// Adds a text, readable by all.
    #[must_use]
    pub fn text(self, path: impl Into<PathBuf>, text: &str) -> Self {
        self.with(path, Entry::Text(text.to_owned()))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.with(path, Entry::Link(target.into()))
    }

    /// Adds a program with the shared libraries that it needs on this machine, and makes it the entrypoint.
    ///
    /// # Errors
    /// When `ldd` cannot be run.
    pub fn program(mut self, path: &str, file: &Path) -> Result<Self, Error> {
        // A static program is an error to ldd, and needs nothing.
        let libraries = Command::new("ldd")
            .arg(file)
            .output()
            .map_err(|e| Error::Run { program: "ldd".to_owned(), source: e })?;
        for library in shared_libraries(&String::from_utf8_lossy(&libraries.stdout)) {
            let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
            self = self.executable(inside, &library);
        }
        self.entrypoint = vec![format!("/{path}")];
        Ok(self.executable(path, file))
    }

    /// The user (and group) that containers run as unless their pod says otherwise.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, archive: &Path) -> Result<(), Error> {
        self.write_archive(archive)
            .map_err(|source| Error::Image { reference: self.reference.clone(), source })
    }

    fn with(mut self, path: impl Into<PathBuf>, entry: Entry) -> Self {
        self.entries.insert(path.into(), entry);
        self
    }

    fn write_archive(&self, archive: &Path) -> io::Result<()> {
        let mut layer = tempfile::tempfile_in(archive.parent().unwrap_or(Path::new(".")))?;
        let digest = self.write_layer(&mut layer)?;
        let size = layer.stream_position()?;
        layer.rewind()?;

        let config = json!({
            "architecture": oci_architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "User": self.user,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "crofter-test-cluster" }],
        });
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": [self.reference], "Layers": ["layer.tar"] }]);

        let mut out = tar::Builder::new(File::create(archive)?);
        for (name, content) in [("manifest.json", manifest), ("config.json", config)] {
            let content = content.to_string();
            append(&mut out, Path::new(name), 0o644, content.len() as u64, content.as_bytes())?;
        }
        append(&mut out, Path::new("layer.tar"), 0o644, size, BufReader::new(layer))?;
        out.into_inner()?.flush()
    }

    /// Writes the layer and returns its digest, which is the identity of an uncompressed layer.
    fn write_layer(&self, file: &mut File) -> io::Result<String> {
        let mut layer = tar::Builder::new(Digested { out: file, hash: Sha256::new() });
        for (path, entry) in self.with_parents() {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(mode, 0);
                    header.set_entry_type(tar::EntryType::Directory);
                    layer.append_data(&mut header, path, io::empty())?;
                }
                Entry::Executable(source) => {
                    let content = File::open(source)?;
                    let size = content.metadata()?.len();
                    append(&mut layer, &path, 0o755, size, BufReader::new(content))?;
                }
                Entry::Text(text) => append(&mut layer, &path, 0o644, text.len() as u64, text.as_bytes())?,
                Entry::Link(target) => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    layer.append_link(&mut header, path, target)?;
                }
            }
        }
        let digest = layer.into_inner()?.hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The entries with every directory they are in, which sorts before what is in it.
    fn with_parents(&self) -> BTreeMap<PathBuf, Entry> {
        let mut all = self.entries.clone();
        for path in self.entries.keys() {
            for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                all.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
            }
        }
        all
    }
}

/// Hashes what it passes on.
struct Digested<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    mode: u32,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    archive.append_data(&mut header(mode, size), path, content)
}

/// The files named in what `ldd` prints: `libc.so.6 => /lib/… (0x…)`, and the loader, which has no arrow.
fn shared_libraries(ldd: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let named = line.rsplit_once("=> ").map_or(line, |(_, path)| path);
        let path = named.trim().split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    ldd.lines().filter_map(file).collect()
}

fn oci_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read};

    use super::*;

    fn read_archive(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let read = |entry: io::Result<tar::Entry<'_, File>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_configuration_names_the_digest_of_the_layer_and_parents_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image::new("crofter.test/x:1")
            .executable("usr/bin/x", &program)
            .link("bin/x", "../usr/bin/x")
            .text("etc/motd", "hello");
        let path = dir.path().join("x.tar");
        image.write(&path).unwrap();

        let archive = read_archive(&path);
        let config: serde_json::Value = serde_json::from_slice(&archive["config.json"]).unwrap();
        let digest: String =
            Sha256::digest(&archive["layer.tar"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));

        let mut layer = tar::Archive::new(&archive["layer.tar"][..]);
        let names: Vec<String> =
            layer.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["bin", "bin/x", "etc", "etc/motd", "usr", "usr/bin", "usr/bin/x"]);
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::new("crofter.test/x:1").text("a", "1").directory("tmp", 0o1777);
        let write = |name: &str| {
            let path = dir.path().join(name);
            image.write(&path).unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(write("1.tar"), write("2.tar"));
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(shared_libraries(ldd), expected);
        assert!(shared_libraries("\tnot a dynamic executable\n").is_empty());
    }
}
