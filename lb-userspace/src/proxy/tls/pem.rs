//! PEM files (RFC 7468) of certificates, keys and revocation lists, and who may read keys.
//! The format itself is rustls-pki-types'.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{PemObject, SectionKind},
};

use super::error::{FileError, FileWarning};

/// Largest file that is read, in bytes; the bundle of every public authority is a tenth.
const MAX_BYTES: u64 = 4 << 20;

/// What a PEM file holds, each kind in the order of the file.
#[derive(Default)]
pub(super) struct Sections {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) revocations: Vec<CertificateRevocationListDer<'static>>,
}

/// Reads a file of at most [`MAX_BYTES`].
///
/// # Errors
/// [`FileError::Read`], [`FileError::TooLarge`].
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), limit: MAX_BYTES });
    }
    Ok(bytes)
}

/// Reads a PEM file. Sections of other kinds are passed over, as are texts around them.
///
/// # Errors
/// [`FileError`]: it can not be read, is broken, or holds an encrypted key.
pub(super) fn read(path: &Path) -> Result<Sections, FileError> {
    let bytes = bytes(path)?;
    let mut sections = Sections::default();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
        let (kind, der) = section
            .map_err(|error| FileError::Pem { path: path.to_owned(), reason: error.to_string() })?;
        match kind {
            SectionKind::Certificate => sections.certificates.push(der.into()),
            SectionKind::PrivateKey => sections.keys.push(PrivateKeyDer::Pkcs8(der.into())),
            SectionKind::RsaPrivateKey => sections.keys.push(PrivateKeyDer::Pkcs1(der.into())),
            SectionKind::EcPrivateKey => sections.keys.push(PrivateKeyDer::Sec1(der.into())),
            SectionKind::Crl => sections.revocations.push(der.into()),
            _ => {}
        }
    }
    if sections.keys.is_empty() && is_encrypted(&bytes) {
        return Err(FileError::EncryptedKey { path: path.to_owned() });
    }
    Ok(sections)
}

/// Whether there is a key under a passphrase: PKCS #8 has a label of its own, older files a
/// header (RFC 1421).
fn is_encrypted(bytes: &[u8]) -> bool {
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED")
}

/// A warning if others than the owner can read the file of a key.
pub(super) fn judge_key_file(path: &Path) -> Option<FileWarning> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o077 != 0).then(|| FileWarning::KeyReadable { path: PathBuf::from(path), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pem");
        fs::write(&path, text).unwrap();
        let found = match read(&path) {
            Ok(sections) => format!("{}+{}", sections.certificates.len(), sections.keys.len()),
            Err(error) => error.to_string().replace(&path.display().to_string(), "x.pem"),
        };
        assert!(found.starts_with(expected), "{text}: {found}");
    }

    #[test]
    fn texts_between_sections_are_passed_over() {
        check("", "0+0");
        check("subject=/CN=x\n", "0+0");
        check("hello\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\nbye", "1+0");
        check("-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n", "0+0");
    }

    #[test]
    fn broken_files_say_what_is_broken() {
        check("-----BEGIN CERTIFICATE-----\nAAAA\n", "x.pem is not good PEM: missing section end");
        check(
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            "x.pem is not good PEM: base64 decode error",
        );
        check(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "the private key in x.pem is encrypted",
        );
    }
}
