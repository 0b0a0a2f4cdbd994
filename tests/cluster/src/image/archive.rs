//! A layout as one file.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    layer::append,
    oci::{Blob, Layout, path_of},
};

/// An image in a file, for a container runtime to import.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The file.
    pub path: PathBuf,
    /// The image's reference without its tag.
    pub repository: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
}

/// Packs a layout, with the `manifest.json` that `docker load` reads.
pub(super) fn write(reference: &str, layout: &Layout, archive: &Path) -> io::Result<()> {
    let mut out = tar::Builder::new(BufWriter::new(File::create(archive)?));
    for name in ["oci-layout", "index.json"] {
        append_file(&mut out, name, &layout.dir.join(name))?;
    }
    let docker = json!([{
        "Config": path_of(&layout.config),
        "RepoTags": [reference],
        "Layers": layout.layers.iter().map(path_of).collect::<Vec<_>>(),
    }]);
    let docker = docker.to_string();
    append(&mut out, "manifest.json", 0o644, docker.len() as u64, docker.as_bytes())?;
    let mut blobs: Vec<&Blob> =
        [&layout.manifest, &layout.config].into_iter().chain(&layout.layers).collect();
    blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    // Two equal layers are one blob.
    blobs.dedup();
    for blob in blobs {
        append_file(&mut out, &path_of(blob), &layout.dir.join(path_of(blob)))?;
    }
    out.into_inner()?.flush()
}

fn append_file(archive: &mut tar::Builder<impl Write>, name: &str, file: &Path) -> io::Result<()> {
    let content = File::open(file)?;
    let size = content.metadata()?.len();
    append(archive, name, 0o644, size, BufReader::new(content))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use serde_json::Value;

    use crate::image::{
        Image,
        tests::{digest, read_tar},
    };

    #[test]
    fn an_archive_is_the_layout_and_names_its_blobs_for_docker() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::new("crofter.test/x:1").text("a", "1").layer("b").text("b", "2");
        let layout = image.write_layout(&dir.path().join("oci")).unwrap();
        let archive = image.write(&dir.path().join("x.tar")).unwrap();
        assert_eq!(
            (archive.repository.as_str(), &archive.digest),
            ("crofter.test/x", &layout.manifest.digest)
        );

        let files: BTreeMap<String, Vec<u8>> =
            read_tar(&fs::read(archive.path).unwrap()).into_iter().collect();
        for name in ["oci-layout", "index.json"] {
            assert_eq!(files[name], fs::read(layout.dir.join(name)).unwrap());
        }
        // What docker loads is what the manifest names.
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"], Value::from(vec!["crofter.test/x:1"]));
        let named = |name: &Value| digest(&files[name.as_str().unwrap()]);
        assert_eq!(named(&docker[0]["Config"]), layout.config.digest);
        let layers: Vec<String> = docker[0]["Layers"].as_array().unwrap().iter().map(named).collect();
        assert_eq!(layers, layout.layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<_>>());
        assert_eq!(files.len(), 3 + 2 + 2, "{:?}", files.keys());
    }
}
