//! The operator's own image: the binary, CA certificates and what name resolution reads.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::jiff::Timestamp;

use super::{Archive, Error, Image};

/// User and group, which the chart's security context has as well.
pub const USER: &str = "65532:65532";

/// The binary inside, which `PATH` finds.
pub const ENTRYPOINT: &str = "/usr/local/bin/crofter";

/// Where Debian's package ca-certificates has the authorities of Mozilla. What a machine trusts besides is elsewhere.
pub const CERTIFICATES: &str = "/usr/share/ca-certificates/mozilla";

const PASSWD: &str = include_str!("../../assets/image/passwd");
const GROUP: &str = include_str!("../../assets/image/group");
const NSSWITCH: &str = include_str!("../../assets/image/nsswitch.conf");

/// What the labels and annotations of the operator's image say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// The version of Crofter.
    pub version: &'a str,
    /// The commit that the binary was built from.
    pub revision: Option<&'a str>,
    /// The URL of the source code.
    pub source: Option<&'a str>,
    /// When the image was created, in seconds since 1970.
    pub created: i64,
}

/// The image of an operator: one layer of configuration, one of shared libraries where the binary is not static, and
/// one of the binary. It has neither a shell nor a package manager.
///
/// # Errors
/// When the binary is none of Linux, or `ldd` cannot be run.
pub fn operator(
    reference: &str,
    binary: &Path,
    certificates: &str,
    details: Details<'_>,
) -> Result<Image, Error> {
    let mut image = Image::new(reference)
        .layer("CA certificates, users and name resolution")
        .text("etc/ssl/certs/ca-certificates.crt", certificates)
        .text("etc/passwd", PASSWD)
        .text("etc/group", GROUP)
        .text("etc/nsswitch.conf", NSSWITCH)
        .user(USER);
    image.architecture = architecture(binary)?;
    if image.architecture == Image::new(reference).architecture {
        let with_libraries = image.clone().layer("shared libraries").libraries_of(binary)?;
        if with_libraries.layers.last().is_some_and(|layer| !layer.is_empty()) {
            image = with_libraries;
        }
    }
    image = image.layer("crofter").executable(ENTRYPOINT.trim_start_matches('/'), binary);
    image.entrypoint = vec![ENTRYPOINT.to_owned()];
    image.created = Timestamp::from_second(details.created).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let labels = [
        ("title", Some("Crofter")),
        ("description", Some("A Kubernetes operator for multi-tenant job processing")),
        ("licenses", Some("Apache-2.0")),
        ("version", Some(details.version)),
        ("revision", details.revision),
        ("source", details.source),
        ("created", Some(image.created.clone().as_str())),
    ]
    .map(|(key, value)| value.map(|value| (format!("org.opencontainers.image.{key}"), value.to_owned())));
    image.labels.extend(labels.into_iter().flatten());
    Ok(image)
}

/// The certificates of a file, or those of all files `*.crt` of a directory, in the order of their names.
///
/// # Errors
/// When a file cannot be read, or the directory has none.
pub fn certificates(from: &Path) -> Result<String, Error> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
    };
    if from.is_file() {
        return read(from);
    }
    let entries = fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "crt")).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::NoCertificates(from.to_owned()));
    }
    let texts: Vec<String> = files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    Ok(texts.iter().map(|text| format!("{}\n", text.trim_end())).collect())
}

/// Writes a program without its symbols and debug lines.
///
/// # Errors
/// When there is no `strip`, or it refuses the program.
pub fn strip(program: &Path, to: &Path) -> Result<(), Error> {
    let done = Command::new("strip").arg("-o").arg(to).arg(program).output();
    let failed = |source| Error::Run { program: "strip", source };
    let done = done.map_err(failed)?;
    if done.status.success() {
        return Ok(());
    }
    Err(failed(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned())))
}

/// Writes the image of a development build to a file in `dir`.
///
/// # Errors
/// As [`development_image`], or when the file cannot be written.
pub fn development_build(reference: &str, binary: &Path, dir: &Path) -> Result<Archive, Error> {
    development_image(reference, binary, dir)?.write(&dir.join("crofter.tar"))
}

/// The image of a development build, whose binary is copied to `dir` without symbols and debug lines. With
/// `CROFTER_TEST_OPERATOR` in the environment that binary takes the place of `binary`, such as the one of `make image`.
///
/// # Errors
/// When a program is missing, or a file cannot be read or written.
pub fn development_image(reference: &str, binary: &Path, dir: &Path) -> Result<Image, Error> {
    let other = std::env::var_os("CROFTER_TEST_OPERATOR").map(PathBuf::from);
    let stripped = dir.join("crofter-stripped");
    strip(other.as_deref().unwrap_or(binary), &stripped)?;
    let details = Details { version: env!("CARGO_PKG_VERSION"), ..Details::default() };
    operator(reference, &stripped, &certificates(Path::new(CERTIFICATES))?, details)
}

/// The architecture of a program, as images call it.
fn architecture(program: &Path) -> Result<&'static str, Error> {
    let mut head = [0; 20];
    File::open(program)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(|source| Error::Read { path: program.to_owned(), source })?;
    // The magic number, 64 bits, little-endian; the machine is at byte 18.
    let [0x7f, b'E', b'L', b'F', 2, 1, .., low, high] = head else {
        return Err(Error::Architecture(program.to_owned()));
    };
    match u16::from_le_bytes([low, high]) {
        62 => Ok("amd64"),
        183 => Ok("arm64"),
        _ => Err(Error::Architecture(program.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::{read_layout, read_tar};

    const DETAILS: Details<'_> =
        Details { version: "1.2.3", revision: Some("abc"), source: None, created: 1_700_000_000 };

    /// The first bytes of a program for an architecture, which no machine runs.
    fn program(dir: &Path, machine: u8) -> PathBuf {
        let path = dir.join(format!("program-{machine}"));
        let mut head = b"\x7fELF\x02\x01".to_vec();
        head.resize(64, 0);
        head[18] = machine;
        fs::write(&path, head).unwrap();
        path
    }

    #[test]
    fn the_image_has_the_binary_and_what_it_reads_and_nothing_else() {
        // Given the image of a program that needs no libraries, its files are these.
        let dir = tempfile::tempdir().unwrap();
        let image = operator("crofter:1.2.3", &program(dir.path(), 62), "PEM\n", DETAILS).unwrap();
        image.write_layout(&dir.path().join("oci")).unwrap();
        let (manifest, config, layers) = read_layout(&dir.path().join("oci"));
        let files: Vec<String> =
            layers.iter().flat_map(|layer| read_tar(layer)).map(|(name, _)| name).collect();
        assert_eq!(
            files,
            [
                "etc",
                "etc/group",
                "etc/nsswitch.conf",
                "etc/passwd",
                "etc/ssl",
                "etc/ssl/certs",
                "etc/ssl/certs/ca-certificates.crt",
                "usr",
                "usr/local",
                "usr/local/bin",
                "usr/local/bin/crofter",
            ]
        );
        // Its configuration has user, architecture, entrypoint and time; labels and annotations say what it is.
        assert_eq!(
            (&config["config"]["User"], &config["architecture"]),
            (&"65532:65532".into(), &"amd64".into())
        );
        assert_eq!(config["config"]["Entrypoint"][0], ENTRYPOINT);
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        for labels in [&manifest["annotations"], &config["config"]["Labels"]] {
            let label = |key: &str| labels[format!("org.opencontainers.image.{key}")].as_str();
            assert_eq!(
                (label("version"), label("revision"), label("source")),
                (Some("1.2.3"), Some("abc"), None)
            );
            assert_eq!((label("title"), label("licenses")), (Some("Crofter"), Some("Apache-2.0")));
        }
    }

    #[test]
    fn the_architecture_is_the_binarys() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(architecture(&program(dir.path(), 62)).unwrap(), "amd64");
        assert_eq!(architecture(&program(dir.path(), 183)).unwrap(), "arm64");
        assert!(matches!(architecture(&program(dir.path(), 8)).unwrap_err(), Error::Architecture(_)));
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\necho hello; exit 0\n").unwrap();
        assert!(matches!(architecture(&script).unwrap_err(), Error::Architecture(_)));
    }

    #[test]
    fn certificates_come_from_one_file_or_in_order_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let none = certificates(dir.path()).unwrap_err();
        assert!(matches!(none, Error::NoCertificates(_)), "{none}");
        for (name, text) in [("b.crt", "two\n\n"), ("a.crt", "one"), ("README", "no certificate")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(certificates(dir.path()).unwrap(), "one\ntwo\n");
        assert_eq!(certificates(&dir.path().join("a.crt")).unwrap(), "one");
    }

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let dockerfile = fs::read_to_string(project.join("scripts/Dockerfile")).unwrap();
        for line in [
            format!("USER {USER}"),
            format!("ENTRYPOINT [\"{ENTRYPOINT}\"]"),
            format!("target/image/crofter {ENTRYPOINT}"),
            format!("{CERTIFICATES}/*.crt"),
            "tests/cluster/assets/image/ /etc/".to_owned(),
        ] {
            assert!(dockerfile.contains(&line), "{line}");
        }
        let pinned = fs::read_to_string(project.join("rust-toolchain.toml")).unwrap();
        let channel = pinned.lines().find_map(|line| line.strip_prefix("channel = \"")).unwrap();
        assert!(dockerfile.contains(&format!("rust:{}-", channel.trim_end_matches('"'))), "{channel}");
    }
}
