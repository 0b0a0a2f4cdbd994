//! One layer of an image: a tar archive of files by their paths, compressed with gzip.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

use super::oci::Blob;

/// Files that change together.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    entries: BTreeMap<PathBuf, Entry>,
    pub(super) comment: String,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Directory { mode: u32 },
    Executable(PathBuf),
    Text(String),
    Link(PathBuf),
}

/// What a layer became.
#[derive(Debug)]
pub(super) struct Written {
    /// The compressed layer, by whose digest registries know it.
    pub(super) blob: Blob,
    /// The digest of the archive in it, by which a container runtime knows it.
    pub(super) diff_id: String,
}

impl Layer {
    pub(super) fn new(comment: &str) -> Self {
        Self { entries: BTreeMap::new(), comment: comment.to_owned() }
    }

    pub(super) fn add(&mut self, path: PathBuf, entry: Entry) {
        self.entries.insert(path, entry);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the layer.
    pub(super) fn write(&self, file: &File) -> io::Result<Written> {
        let compressed = Digested::new(BufWriter::new(file));
        // Neither a name nor a time is in the header; the operating system is "unknown" on all machines.
        let gzip = GzBuilder::new().operating_system(255).write(compressed, Compression::default());
        let mut archive = tar::Builder::new(Digested::new(gzip));
        for (path, entry) in self.with_parents() {
            append_entry(&mut archive, &path, entry)?;
        }
        let (gzip, diff_id, _) = archive.into_inner()?.finish();
        let (mut file, digest, size) = gzip.finish()?.finish();
        file.flush()?;
        Ok(Written { blob: Blob { digest, size }, diff_id })
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

fn append_entry(archive: &mut tar::Builder<impl Write>, path: &Path, entry: Entry) -> io::Result<()> {
    match entry {
        Entry::Directory { mode } => {
            let mut header = header(mode, 0);
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, path, io::empty())
        }
        Entry::Executable(source) => {
            let content = File::open(&source).map_err(|error| named(&source, &error))?;
            let size = content.metadata()?.len();
            append(archive, path, 0o755, size, BufReader::new(content))
        }
        Entry::Text(text) => append(archive, path, 0o644, text.len() as u64, text.as_bytes()),
        Entry::Link(target) => {
            let mut header = header(0o777, 0);
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, path, target)
        }
    }
}

/// The error with the file that it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to open {}: {error}", path.display()))
}

/// Appends a file of root's, without a time.
pub(super) fn append(
    archive: &mut tar::Builder<impl Write>,
    path: impl AsRef<Path>,
    mode: u32,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    archive.append_data(&mut header(mode, size), path, content)
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Hashes and counts what it passes on.
struct Digested<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Digested<W> {
    fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), size: 0 }
    }

    /// The writer below, the digest and the number of bytes.
    fn finish(self) -> (W, String, u64) {
        (self.out, digest_text(self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `sha256:…` as manifests have it.
pub(super) fn digest_text(hash: impl AsRef<[u8]>) -> String {
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
