//! A certificate with its key, from two files that are replaced together.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    self, InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::pem;

/// What the server speaks, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];
/// How often the files are read for a pair that does not change while it is read.
const READS: usize = 3;

/// The files of the certificate and its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, followed by those of its intermediate authorities.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a pair can't be served. Holds nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("failed to read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not the PEM that it should be.
    #[error("failed to load {}: {cause}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// The first certificate is malformed.
    #[error("failed to load {}: its first certificate is malformed: {cause}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The key is of no supported kind.
    #[error(
        "failed to load {}: its private key is none that Crofter supports ({cause}): use ECDSA P-256 or P-384, Ed25519, \
         or RSA of 2048 to 4096 bits", .path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What the library says.
        cause: rustls::Error,
    },
    /// Key and certificate are not a pair.
    #[error(
        "the private key in {} does not belong to the first certificate in {}: write the server's own certificate \
         before those of its authorities, and the key that it was issued for", .key.display(), .certificate.display()
    )]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificates.
        certificate: PathBuf,
    },
}

/// A pair that can be served.
pub(super) struct Pair {
    pub(super) config: Arc<ServerConfig>,
    /// Names and addresses that the certificate is for.
    pub(super) names: Vec<String>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// Of both files.
    digest: [u8; 32],
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Files {
    /// The pair.
    pub(super) async fn load(&self) -> Result<Pair, Error> {
        let (certificate, key) = self.read().await?;
        self.parse(&certificate, &key)
    }

    /// The pair, where the files hold another one than `current`.
    pub(super) async fn load_unless(&self, current: &Pair) -> Result<Option<Pair>, Error> {
        let (certificate, key) = self.read().await?;
        if digest(&certificate, &key) == current.digest {
            return Ok(None);
        }
        self.parse(&certificate, &key).map(Some)
    }

    /// Both files as they are at one moment: those of a mounted Secret change together, but may do so between two reads.
    async fn read(&self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let mut certificate = read(&self.certificate).await?;
        for _ in 1..READS {
            let key = read(&self.key).await?;
            let again = read(&self.certificate).await?;
            if again == certificate {
                return Ok((certificate, key));
            }
            certificate = again;
        }
        Ok((certificate, read(&self.key).await?))
    }

    fn parse(&self, certificate: &[u8], key: &[u8]) -> Result<Pair, Error> {
        let of_pem = |path: &Path, cause| Error::Pem { path: path.to_owned(), cause };
        let chain = pem::certificates(certificate).map_err(|cause| of_pem(&self.certificate, cause))?;
        let private = pem::private_key(key).map_err(|cause| of_pem(&self.key, cause))?;
        let malformed = |cause: String| Error::Certificate { path: self.certificate.clone(), cause };
        let leaf = chain.first().ok_or_else(|| of_pem(&self.certificate, pem::Error::NoCertificate))?;
        let Described { names, not_before, not_after } = describe(leaf).map_err(malformed)?;
        let config = config(chain, private).map_err(|cause| match cause {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Error::Mismatch { key: self.key.clone(), certificate: self.certificate.clone() }
            }
            rustls::Error::InvalidCertificate(cause) => malformed(cause.to_string()),
            cause => Error::Key { path: self.key.clone(), cause },
        })?;
        Ok(Pair { config: Arc::new(config), names, not_before, not_after, digest: digest(certificate, key) })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn digest(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let length = certificate.len().to_be_bytes();
    Sha256::new().chain_update(length).chain_update(certificate).chain_update(key).finalize().into()
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// What a certificate says of itself.
struct Described {
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

fn describe(certificate: &CertificateDer<'_>) -> Result<Described, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    // RFC 5280 writes "no end" as a time later than the last one that jiff has.
    let time = |seconds, or| Timestamp::from_second(seconds).unwrap_or(or);
    Ok(Described {
        names: names(&parsed),
        not_before: time(validity.not_before.timestamp(), Timestamp::MIN),
        not_after: time(validity.not_after.timestamp(), Timestamp::MAX),
    })
}

/// DNS names and addresses of the certificate. Clients compare no other field with the host that they connect to.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let all = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    all.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6)
}
