//! Container images without a daemon: files on disk become an OCI image layout, or one archive of it.
//!
//! The layout follows the OCI image specification 1.1: blobs by their digest, a configuration, a manifest and an index.
//! The archive is the same layout as a tar file, with a `manifest.json` for `docker load`; containerd, podman and skopeo
//! read the layout in it. Both are reproducible (sorted names, no times of files, owner root, gzip without a name and a
//! time), so the same files give the same digest.

mod archive;
mod layer;
mod oci;
mod operator;
mod postgres;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use self::layer::{Entry, Layer};
pub use self::{
    archive::Archive,
    oci::{Blob, Layout},
    operator::{
        CERTIFICATES, Details, ENTRYPOINT, USER, certificates, development_build, development_image,
        operator, strip,
    },
    postgres::postgres,
};

/// Why an image was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the image could not be read, or one of the layout not be written.
    #[error("failed to write image {reference}")]
    Write {
        /// The image.
        reference: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The directory of the layout holds something else.
    #[error(
        "failed to write an OCI layout to {0}: the directory is no OCI layout and not empty, give another one"
    )]
    Occupied(PathBuf),
    /// A reference without a tag, or with a digest.
    #[error("failed to name the image {0:?}: give <repository>:<tag>")]
    Reference(String),
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The machine lacks what is to be in the image.
    #[error("failed to find the programs of {0}: apt-get install {0}")]
    Missing(&'static str),
    /// There are no certificates.
    #[error("failed to read CA certificates: {0} has no file *.crt, install ca-certificates or give a file")]
    NoCertificates(PathBuf),
    /// The file is no Linux program of an architecture that images have a name for.
    #[error("failed to read the architecture of {0}: it is no ELF program for x86-64 or arm64")]
    Architecture(PathBuf),
    /// A program could not be run, or failed.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// The operating system's error, or what the program printed.
        source: io::Error,
    },
}

/// An image to be written with [`Image::write`] or [`Image::write_layout`].
///
/// Files go into the last layer; [`Image::layer`] begins another one.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    layers: Vec<Layer>,
    architecture: &'static str,
    /// RFC 3339.
    created: String,
    labels: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    stop_signal: Option<&'static str>,
}

impl Image {
    /// An image without files, for this machine's architecture. The reference needs a host and a tag, such as
    /// `crofter.test/tool:1`: with another tag than `latest` a pod's pull policy is `IfNotPresent`, and an imported
    /// image is present.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            layers: Vec::new(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            created: "1970-01-01T00:00:00Z".to_owned(),
            labels: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            stop_signal: None,
        }
    }

    /// Begins a layer; what changes together belongs into one. `comment` is its line in the image's history.
    #[must_use]
    pub fn layer(mut self, comment: &str) -> Self {
        self.layers.push(Layer::new(comment));
        self
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

    /// Adds the shared libraries that a program needs on this machine, where it has them; none for a static program.
    ///
    /// # Errors
    /// When `ldd` cannot be run.
    pub fn libraries_of(self, program: &Path) -> Result<Self, Error> {
        let ldd = Command::new("ldd").arg(program).output();
        // A static program is an error to ldd.
        let ldd = ldd.map_err(|source| Error::Run { program: "ldd", source })?;
        let libraries = shared_libraries(&String::from_utf8_lossy(&ldd.stdout));
        Ok(libraries.into_iter().fold(self, |image, library| {
            let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
            image.executable(inside, &library)
        }))
    }

    /// Adds a program with the shared libraries that it needs on this machine, and makes it the entrypoint.
    ///
    /// # Errors
    /// When `ldd` cannot be run.
    pub fn program(self, path: &str, file: &Path) -> Result<Self, Error> {
        let mut image = self.libraries_of(file)?.executable(path, file);
        image.entrypoint = vec![format!("/{path}")];
        Ok(image)
    }

    /// The command that containers run unless their pod says otherwise, where there is no entrypoint.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The user (and group) that containers run as unless their pod says otherwise.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Adds a label of the configuration, which is an annotation of the manifest, too.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Writes an OCI layout into a directory, in place of one that is in it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the directory holds something else.
    pub fn write_layout(&self, dir: &Path) -> Result<Layout, Error> {
        let occupied = !dir.join("oci-layout").exists()
            && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            return Err(Error::Occupied(dir.to_owned()));
        }
        let (_, tag) = self.name()?;
        oci::write(self, tag, dir).map_err(|source| self.not_written(source))
    }

    /// Writes an OCI layout as one file, which `docker load` reads as well.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, archive: &Path) -> Result<Archive, Error> {
        let parent = parent_of(archive);
        let dir = fs::create_dir_all(parent).and_then(|()| tempfile::tempdir_in(parent));
        let dir = dir.map_err(|source| self.not_written(source))?;
        self.archive(&self.write_layout(&dir.path().join("layout"))?, archive)
    }

    /// Writes a layout of this image as one file.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn archive(&self, layout: &Layout, archive: &Path) -> Result<Archive, Error> {
        let (repository, _) = self.name()?;
        archive::write(&self.reference, layout, archive).map_err(|source| self.not_written(source))?;
        Ok(Archive {
            path: archive.to_owned(),
            repository: repository.to_owned(),
            digest: layout.manifest.digest.clone(),
        })
    }

    /// Repository and tag.
    fn name(&self) -> Result<(&str, &str), Error> {
        let named = self.reference.rsplit_once(':').filter(|(repository, tag)| {
            !repository.is_empty() && !tag.is_empty() && !tag.contains('/') && !repository.contains('@')
        });
        named.ok_or_else(|| Error::Reference(self.reference.clone()))
    }

    fn not_written(&self, source: io::Error) -> Error {
        Error::Write { reference: self.reference.clone(), source }
    }

    fn with(mut self, path: impl Into<PathBuf>, entry: Entry) -> Self {
        if self.layers.is_empty() {
            self = self.layer("files");
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.add(path.into(), entry);
        }
        self
    }
}

/// The directory that a path is in.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    pub(super) fn digest(bytes: &[u8]) -> String {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    pub(super) fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    /// Names and contents of the files in a tar archive.
    pub(super) fn read_tar(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    /// Reads a layout from its index on, and checks that each blob is what its descriptor says and that there is no
    /// other one; returns manifest, configuration and the plain layers.
    pub(super) fn read_layout(dir: &Path) -> (Value, Value, Vec<Vec<u8>>) {
        let blobs = dir.join("blobs/sha256");
        let mut unnamed: std::collections::BTreeSet<String> =
            fs::read_dir(&blobs).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let mut blob = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap();
            let hex = name.strip_prefix("sha256:").unwrap();
            let bytes = fs::read(blobs.join(hex)).unwrap();
            assert_eq!(
                (digest(&bytes).as_str(), bytes.len() as u64),
                (name, descriptor["size"].as_u64().unwrap())
            );
            unnamed.remove(hex);
            bytes
        };
        let read =
            |name: &str| -> Value { serde_json::from_slice(&fs::read(dir.join(name)).unwrap()).unwrap() };
        assert_eq!(read("oci-layout"), serde_json::json!({"imageLayoutVersion": "1.0.0"}));
        let index = read("index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layers: Vec<_> =
            manifest["layers"].as_array().unwrap().iter().map(|layer| gunzip(&blob(layer))).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| Value::from(digest(layer))).collect();
        assert_eq!(config["rootfs"]["diff_ids"], Value::from(diff_ids));
        assert_eq!(config["history"].as_array().unwrap().len(), layers.len());
        assert!(unnamed.is_empty(), "blobs that no descriptor names: {unnamed:?}");
        (manifest, config, layers)
    }

    #[test]
    fn every_blob_of_a_layout_is_what_its_descriptor_says() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image::new("crofter.test/x:1")
            .executable("usr/bin/x", &program)
            .link("bin/x", "../usr/bin/x")
            .layer("more")
            .text("etc/motd", "hello")
            .label("key", "value")
            .user("65532:65532");
        let layout = image.write_layout(&dir.path().join("oci")).unwrap();
        let (manifest, config, layers) = read_layout(&dir.path().join("oci"));
        assert_eq!(layout.layers.len(), 2);
        assert_eq!(manifest["annotations"]["key"], "value");
        assert_eq!(
            (&config["config"]["Labels"]["key"], &config["config"]["User"]),
            (&"value".into(), &"65532:65532".into())
        );
        let names: Vec<Vec<String>> =
            layers.iter().map(|layer| read_tar(layer).into_iter().map(|(name, _)| name).collect()).collect();
        assert_eq!(names, [vec!["bin", "bin/x", "usr", "usr/bin", "usr/bin/x"], vec!["etc", "etc/motd"],]);
    }

    #[test]
    fn the_same_files_give_the_same_digest_whenever_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let write = |name: &str, time: u64| {
            fs::write(&program, "#!/bin/sh\n").unwrap();
            let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time);
            fs::File::options().write(true).open(&program).unwrap().set_modified(at).unwrap();
            let image = Image::new("crofter.test/x:1").executable("x", &program).directory("tmp", 0o1777);
            let archive = image.write(&dir.path().join(name)).unwrap();
            (archive.digest, fs::read(archive.path).unwrap())
        };
        let first = write("1.tar", 1_000_000);
        assert_eq!(first, write("2.tar", 2_000_000));
        let other = Image::new("crofter.test/x:1").text("x", "#!/bin/sh\n").write(&dir.path().join("3.tar"));
        assert_ne!(first.0, other.unwrap().digest, "the mode of a file is part of it");
    }

    #[test]
    fn a_layout_replaces_a_layout_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let oci = dir.path().join("oci");
        for text in ["one", "two"] {
            Image::new("crofter.test/x:1").text("x", text).write_layout(&oci).unwrap();
            let (_, _, layers) = read_layout(&oci);
            assert_eq!(read_tar(&layers[0]), [("x".to_owned(), text.as_bytes().to_vec())]);
        }
        fs::write(dir.path().join("mine"), "").unwrap();
        let refused = Image::new("crofter.test/x:1").write_layout(dir.path()).unwrap_err();
        assert!(matches!(refused, Error::Occupied(_)), "{refused}");
        assert!(dir.path().join("mine").exists());
    }

    #[test]
    fn a_reference_needs_a_tag() {
        let dir = tempfile::tempdir().unwrap();
        for reference in ["crofter", "localhost:5000/crofter", "crofter:", "crofter@sha256:00", ":1"] {
            let refused = Image::new(reference).write_layout(&dir.path().join("oci")).unwrap_err();
            assert!(matches!(refused, Error::Reference(_)), "{reference}: {refused}");
        }
        let named = Image::new("localhost:5000/crofter:1");
        assert_eq!(named.name().unwrap(), ("localhost:5000/crofter", "1"));
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
