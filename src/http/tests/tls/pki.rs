//! Authorities, certificates and their files.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    SignatureAlgorithm,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::CertificateDer,
        version::{TLS12, TLS13},
    },
};

use super::*;
use crate::http::tls::Files;

/// An authority, and the certificates from it up to its root.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
    pub(super) root: CertificateDer<'static>,
}

/// A certificate with those of its authorities, and its key, as PEM.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// What a server's certificate says.
pub(super) fn server() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

impl Authority {
    pub(super) fn new() -> Self {
        let (params, key) = (authority("root"), KeyPair::generate().unwrap());
        let root = params.self_signed(&key).unwrap();
        Self { chain: root.pem(), root: root.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(super) fn intermediate(&self) -> Self {
        let (params, key) = (authority("intermediate"), KeyPair::generate().unwrap());
        let own = params.signed_by(&key, &self.issuer).unwrap();
        let chain = own.pem() + &self.chain;
        Self { chain, root: self.root.clone(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, params: &CertificateParams, kind: &'static SignatureAlgorithm) -> Issued {
        let key = KeyPair::generate_for(kind).unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: own.pem() + &self.chain, key: key.serialize_pem() }
    }

    pub(super) fn server(&self) -> Issued {
        self.issue(&server(), &PKCS_ECDSA_P256_SHA256)
    }

    /// A client that trusts only this authority's root.
    pub(super) fn client(&self) -> Client {
        Client {
            root: self.root.clone(),
            versions: vec![&TLS12, &TLS13],
            protocols: vec![b"http/1.1".to_vec()],
        }
    }
}

pub(super) struct Client {
    pub(super) root: CertificateDer<'static>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) protocols: Vec<Vec<u8>>,
}

impl Client {
    pub(super) fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&self.versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols.clone_from(&self.protocols);
        TlsConnector::from(Arc::new(config))
    }
}

/// Files as those of a mounted Secret: links to what is in one directory, by a link that changes at once.
pub(super) struct Mounted(tempfile::TempDir);

impl Mounted {
    pub(super) fn new(pair: &Issued) -> Self {
        let mounted = Self(tempfile::tempdir().unwrap());
        mounted.replace(pair);
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(format!("..data/{file}"), mounted.at(file)).unwrap();
        }
        mounted
    }

    fn at(&self, file: &str) -> std::path::PathBuf {
        self.0.path().join(file)
    }

    /// As a kubelet does.
    pub(super) fn replace(&self, pair: &Issued) {
        let version = tempfile::tempdir_in(self.0.path()).unwrap().keep();
        write(&version, pair);
        std::os::unix::fs::symlink(version.file_name().unwrap(), self.at("..data_tmp")).unwrap();
        std::fs::rename(self.at("..data_tmp"), self.at("..data")).unwrap();
    }

    pub(super) fn files(&self) -> Files {
        Files { certificate: self.at("tls.crt"), key: self.at("tls.key") }
    }

    /// Replaces one file and then, it seems, nothing more.
    pub(super) fn write_certificate(&self, pem: &str) {
        std::fs::write(self.at("..data/tls.crt"), pem).unwrap();
    }
}

fn write(dir: &Path, pair: &Issued) {
    std::fs::write(dir.join("tls.crt"), &pair.chain).unwrap();
    std::fs::write(dir.join("tls.key"), &pair.key).unwrap();
}
