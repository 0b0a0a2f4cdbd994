//! The OCI image layout: blobs by their digest, and the JSON documents that name them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Image,
    layer::{Written, digest_text},
    parent_of,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A content of a layout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    /// In bytes; of a layer, compressed.
    pub size: u64,
}

/// An image in a directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory.
    pub dir: PathBuf,
    /// The manifest, whose digest is the image's.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Layout {
    /// What a node downloads that has nothing of the image, in bytes.
    #[must_use]
    pub fn download_size(&self) -> u64 {
        [&self.manifest, &self.config].into_iter().chain(&self.layers).map(|blob| blob.size).sum()
    }
}

/// The path of a blob inside a layout.
pub(super) fn path_of(blob: &Blob) -> String {
    format!("blobs/{}", blob.digest.replacen(':', "/", 1))
}

/// Writes the layout aside, and then takes the directory's place.
pub(super) fn write(image: &Image, tag: &str, dir: &Path) -> io::Result<Layout> {
    let parent = parent_of(dir);
    fs::create_dir_all(parent)?;
    let unfinished = tempfile::Builder::new().prefix(".oci-").tempdir_in(parent)?;
    let new = unfinished.path().join("layout");
    let blobs = new.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let written = image.layers.iter().map(|layer| {
        let partial = new.join("layer");
        let written = layer.write(&File::create(&partial)?)?;
        fs::rename(&partial, new.join(path_of(&written.blob)))?;
        Ok::<_, io::Error>(written)
    });
    let written = written.collect::<Result<Vec<_>, _>>()?;
    let layers: Vec<Blob> = written.iter().map(|layer| layer.blob.clone()).collect();
    let config = add(&new, &config(image, &written))?;
    let manifest = add(&new, &manifest(image, &config, &layers))?;
    fs::write(new.join("index.json"), index(image, tag, &manifest).to_string())?;
    fs::write(new.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    if dir.exists() {
        fs::rename(dir, unfinished.path().join("previous"))?;
    }
    fs::rename(&new, dir)?;
    Ok(Layout { dir: dir.to_owned(), manifest, config, layers })
}

/// Adds a document to a layout.
fn add(layout: &Path, document: &Value) -> io::Result<Blob> {
    let text = document.to_string();
    let blob = Blob { digest: digest_text(Sha256::digest(&text)), size: text.len() as u64 };
    fs::write(layout.join(path_of(&blob)), text)?;
    Ok(blob)
}

fn config(image: &Image, layers: &[Written]) -> Value {
    let history = image.layers.iter().map(|layer| {
        json!({ "created": image.created, "created_by": "crofter-test-cluster", "comment": layer.comment })
    });
    let mut config = json!({
        "created": image.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
        },
        "history": history.collect::<Vec<_>>(),
    });
    if let Some(signal) = image.stop_signal {
        config["config"]["StopSignal"] = signal.into();
    }
    config
}

fn manifest(image: &Image, config: &Blob, layers: &[Blob]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        "annotations": image.labels,
    })
}

fn index(image: &Image, tag: &str, manifest: &Blob) -> Value {
    let mut named = descriptor(MANIFEST, manifest);
    named["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    named["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        // containerd's name for an imported image.
        "io.containerd.image.name": image.reference,
    });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] })
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size })
}
