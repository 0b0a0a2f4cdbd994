//! Certificates and private keys as PEM: those of the REST API, and those that the URL of the database names.

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Why PEM is not what it should be. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No block is a certificate.
    #[error("it has no certificate: write one as PEM (`-----BEGIN CERTIFICATE-----`) into it")]
    NoCertificate,
    /// No block is a private key.
    #[error("it has no private key: write one as PEM (`-----BEGIN PRIVATE KEY-----`) into it")]
    NoKey,
    /// The private key needs a passphrase.
    #[error("its private key is encrypted: decrypt it with `openssl pkey -in <encrypted> -out <decrypted>`")]
    EncryptedKey,
    /// A block does not end, or is not base64.
    #[error("it has a malformed PEM block, and may be half-written")]
    Malformed,
}

/// All certificates, in their order.
///
/// # Errors
/// [`Error::NoCertificate`], [`Error::Malformed`].
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| Error::Malformed)?;
    if certificates.is_empty() { Err(Error::NoCertificate) } else { Ok(certificates) }
}

/// The first private key: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// [`Error::NoKey`], [`Error::EncryptedKey`], [`Error::Malformed`].
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    /// As PKCS #8 and as OpenSSL's older form (RFC 1421) write it.
    const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];
    let text = String::from_utf8_lossy(pem);
    if ENCRYPTED.iter().any(|sign| text.contains(sign)) {
        return Err(Error::EncryptedKey);
    }
    let first = PrivateKeyDer::pem_slice_iter(pem).next().ok_or(Error::NoKey)?;
    first.map_err(|_| Error::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n";

    #[test]
    fn what_is_missing_malformed_or_encrypted_is_named() {
        let both = format!("# a comment\n{KEY}{CERTIFICATE}{CERTIFICATE}");
        assert_eq!(certificates(both.as_bytes()).unwrap().len(), 2);
        assert_eq!(private_key(both.as_bytes()).unwrap().secret_der(), [4, 16, 65]);
        assert_eq!(certificates(KEY.as_bytes()), Err(Error::NoCertificate));
        for none in ["", "geheim", CERTIFICATE] {
            assert_eq!(private_key(none.as_bytes()).unwrap_err(), Error::NoKey);
        }
        for cut in [
            &CERTIFICATE[..CERTIFICATE.len() - 5],
            &both[..both.len() - 40],
            &CERTIFICATE.replace("AAAA", "%%%%"),
        ] {
            assert_eq!(certificates(cut.as_bytes()), Err(Error::Malformed));
        }
        assert_eq!(private_key(&KEY.as_bytes()[..30]).unwrap_err(), Error::Malformed);
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nBBBB\n\
                     -----END RSA PRIVATE KEY-----\n";
        for encrypted in [KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), older.to_owned()] {
            assert_eq!(private_key(encrypted.as_bytes()).unwrap_err(), Error::EncryptedKey);
        }
    }
}
