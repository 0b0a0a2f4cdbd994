//! The cluster's own certificate authority, and the client configurations that rest on it.
//!
//! Every cluster makes its own authority, so that the credentials of one are worth nothing in another. Users are client
//! certificates: the common name is the user, the organizations are its groups.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// Why a credential could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate could not be made.
    #[error("issuing the certificate of {name}")]
    Issue {
        /// Whose certificate.
        name: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("accessing {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, readable by the owner only.
    pub key: PathBuf,
}

/// What a client shows to the API server.
#[derive(Clone, Debug)]
pub enum Credentials<'a> {
    /// A client certificate.
    Certificate(&'a Identity),
    /// A bearer token, such as a service account's.
    Token(&'a str),
}

/// The certificate authority of one cluster.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    authority: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes a new authority whose files are in `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Issue { name: "the authority".to_owned(), source };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "crofter-test-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let authority = write_identity(dir, "ca", &certificate.pem(), &key)?;
        Ok(Self { dir: dir.to_owned(), authority, issuer: Issuer::new(params, key) })
    }

    /// The authority's certificate and key.
    #[must_use]
    pub fn authority(&self) -> &Identity {
        &self.authority
    }

    /// Issues a certificate for servers and clients, in files called after `file`. `names` are the host names and
    /// addresses that a server answers to.
    ///
    /// # Errors
    /// When a name is not a valid one, or a file cannot be written.
    pub fn issue(&self, file: &str, user: &str, groups: &[&str], names: &[&str]) -> Result<Identity, Error> {
        let failed = |source| Error::Issue { name: user.to_owned(), source };
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, user);
        for &group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        write_identity(&self.dir, file, &certificate.pem(), &key)
    }

    /// Makes the key pair that signs service account tokens: the files of its private and its public half.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn service_account_keys(&self) -> Result<(PathBuf, PathBuf), Error> {
        let key = KeyPair::generate()
            .map_err(|source| Error::Issue { name: "service account tokens".to_owned(), source })?;
        let private = self.dir.join("service-account.key");
        let public = self.dir.join("service-account.pub");
        write_private(&private, &key.serialize_pem())?;
        write_private(&public, &key.public_key_pem())?;
        Ok((private, public))
    }

    /// Writes a client configuration that needs no other file, so that it may be copied elsewhere.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write_kubeconfig(&self, path: &Path, api_url: &str, who: &Credentials<'_>) -> Result<(), Error> {
        let user = match who {
            Credentials::Token(token) => json!({ "token": token }),
            Credentials::Certificate(identity) => json!({
                "client-certificate-data": base64(&identity.certificate)?,
                "client-key-data": base64(&identity.key)?,
            }),
        };
        let name = "crofter-test-cluster";
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
            "clusters": [{ "name": name, "cluster": {
                "server": api_url,
                "certificate-authority-data": base64(&self.authority.certificate)?,
            }}],
            "users": [{ "name": name, "user": user }],
        });
        write_private(path, &format!("{config:#}\n"))
    }
}

fn write_identity(dir: &Path, file: &str, certificate: &str, key: &KeyPair) -> Result<Identity, Error> {
    let identity =
        Identity { certificate: dir.join(format!("{file}.crt")), key: dir.join(format!("{file}.key")) };
    write_private(&identity.key, &key.serialize_pem())?;
    write_private(&identity.certificate, certificate)?;
    Ok(identity)
}

/// Writes a file that only its owner can read, atomically: another test may read it at the same moment.
fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}

/// The content of a file in the encoding that client configurations want.
fn base64(path: &Path) -> Result<ByteString, Error> {
    fs::read(path).map(ByteString).map_err(|source| Error::File { path: path.to_owned(), source })
}
