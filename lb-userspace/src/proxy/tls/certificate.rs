//! One certificate: its chain, its key, the names it is for, and the OCSP response that is
//! stapled to it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use x509_parser::{
    prelude::{FromDer, GeneralName, X509Certificate},
    time::ASN1Time,
};

use super::{
    error::{FileError, FileWarning},
    pem,
};

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Files {
    /// The chain, and perhaps the key.
    pub(super) certificate: PathBuf,
    /// Where the key is if it is not in the certificate's file: the first that exists.
    pub(super) keys: Vec<PathBuf>,
    /// The key is in `keys`, whatever else the certificate's file holds.
    pub(super) key_is_apart: bool,
    /// Where an OCSP response may be: the first that exists.
    pub(super) ocsp: Vec<PathBuf>,
    /// The OCSP response was asked for by name: it has to be there.
    pub(super) ocsp_is_named: bool,
}

/// A certificate that is ready to be shown.
#[derive(Debug)]
pub(super) struct Certificate {
    /// What rustls shows.
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names it is for, lower case; a wildcard as `*.example.com`.
    pub(super) names: BTreeSet<String>,
}

impl Certificate {
    /// Reads and judges the files of a certificate.
    ///
    /// # Errors
    /// [`FileError`]: a file is missing or broken, or the key is another certificate's.
    pub(super) fn load(
        files: &Files,
        provider: &CryptoProvider,
        warnings: &mut Vec<FileWarning>,
    ) -> Result<Self, FileError> {
        let path = &files.certificate;
        let (chain, key) = chain_and_key(files, warnings)?;
        let names = names(&chain[0], path, warnings)?;
        let unusable = |source| FileError::Unusable { path: path.clone(), source };
        let mut key = CertifiedKey::from_der(chain, key, provider).map_err(unusable)?;
        key.ocsp = stapled(files)?;
        Ok(Self { key: Arc::new(key), names })
    }
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The chain, not empty, and the key of a certificate.
pub(super) fn chain_and_key(
    files: &Files,
    warnings: &mut Vec<FileWarning>,
) -> Result<ChainAndKey, FileError> {
    let path = &files.certificate;
    let sections = pem::read(path)?;
    if sections.certificates.is_empty() {
        return Err(FileError::Missing { path: path.clone(), what: "certificate" });
    }
    let mut own_keys = sections.keys;
    if !own_keys.is_empty() && !files.key_is_apart {
        warnings.extend(pem::judge_key_file(path));
        return Ok((sections.certificates, own_keys.swap_remove(0)));
    }
    let Some(key_path) = files.keys.iter().find(|path| path.exists()) else {
        return Err(FileError::NoKey { path: path.clone(), looked: files.keys.clone() });
    };
    let mut keys = pem::read(key_path)?.keys;
    warnings.extend(pem::judge_key_file(key_path));
    if keys.is_empty() {
        return Err(FileError::Missing { path: key_path.clone(), what: "private key" });
    }
    Ok((sections.certificates, keys.swap_remove(0)))
}

/// The DNS names of a leaf certificate: those of the extension, or without one the common
/// name, which is what old clients took.
fn names(
    leaf: &CertificateDer<'_>,
    path: &Path,
    warnings: &mut Vec<FileWarning>,
) -> Result<BTreeSet<String>, FileError> {
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|error| FileError::Certificate { path: path.into(), reason: error.to_string() })?;
    let validity = parsed.validity();
    let state = match ASN1Time::now() {
        now if now > validity.not_after => format!("expired at {}", validity.not_after),
        now if now < validity.not_before => {
            format!("is not valid before {}", validity.not_before)
        }
        _ => String::new(),
    };
    if !state.is_empty() {
        warnings.push(FileWarning::Validity { path: path.into(), state });
    }
    // An extension that can not be read has no names; the leaf may still be the default.
    let extension = parsed.subject_alternative_name().ok().flatten();
    let alternative = extension.iter().flat_map(|extension| &extension.value.general_names);
    let mut names: BTreeSet<String> = alternative
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if extension.is_none() {
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.filter(|name| !name.contains(' ')).map(str::to_ascii_lowercase));
    }
    Ok(names)
}

fn stapled(files: &Files) -> Result<Option<Vec<u8>>, FileError> {
    let Some(path) = files.ocsp.iter().find(|path| files.ocsp_is_named || path.exists()) else {
        return Ok(None);
    };
    let bytes = pem::bytes(path)?;
    match judge_ocsp(&bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(reason) => Err(FileError::Ocsp { path: path.clone(), reason: reason.into() }),
    }
}

/// Whether bytes are a successful OCSP response (RFC 6960 section 4.2.1): a sequence that
/// fills the file and begins with the status 0. Whom it is about and how long it is good
/// for is left to who renews it.
fn judge_ocsp(bytes: &[u8]) -> Result<(), &'static str> {
    use x509_parser::der_parser::asn1_rs::{Any, Enumerated};

    let not_der = "it is not DER; `openssl ocsp -respout` writes it";
    let (rest, response) = Any::from_der(bytes).map_err(|_| not_der)?;
    if !rest.is_empty() || !response.header.is_constructed() {
        return Err(not_der);
    }
    match Enumerated::from_der(response.data) {
        Ok((_, Enumerated(0))) => Ok(()),
        Ok(_) => Err("the responder did not answer the question (its status is not 0)"),
        Err(_) => Err("it is no OCSP response"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_successful_ocsp_responses_are_stapled() {
        // SEQUENCE { ENUMERATED 0 }, SEQUENCE { ENUMERATED 6 (unauthorized) }.
        assert_eq!(judge_ocsp(&[0x30, 3, 0x0a, 1, 0]), Ok(()));
        assert!(judge_ocsp(&[0x30, 3, 0x0a, 1, 6]).unwrap_err().contains("did not answer"));
        assert!(judge_ocsp(&[0x30, 3, 0x02, 1, 0]).unwrap_err().contains("no OCSP"));
        assert!(judge_ocsp(b"-----BEGIN OCSP RESPONSE-----").unwrap_err().contains("not DER"));
        assert!(judge_ocsp(&[0x30, 3, 0x0a, 1, 0, 0]).unwrap_err().contains("not DER"));
        assert!(judge_ocsp(&[]).unwrap_err().contains("not DER"));
    }
}
