//! From the paths of a configuration to the files that make each certificate.
//!
//! The names are HAProxy's: beside `site.pem` its key is `site.pem.key` or `site.key`, its
//! OCSP response `site.pem.ocsp` or `site.ocsp`. In a directory, files with those endings are
//! companions and hidden files are passed over; everything else is a certificate.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    certificate::Files,
    error::{FileError, FileWarning},
};
use crate::model::tls::{CertificatePair, CertificateSource};

/// Most files of one directory.
const MAX_FILES: usize = 100_000;
/// Endings of files that belong to a certificate of the same name, or to nothing here.
const COMPANIONS: [&str; 6] = ["key", "ocsp", "issuer", "sctl", "csr", "dh"];

/// The files of every certificate of a source, in the order of their names; never none.
///
/// # Errors
/// [`FileError`]: the path can not be read, or is a directory without certificates.
pub(super) fn files(
    source: &CertificateSource,
    warnings: &mut Vec<FileWarning>,
) -> Result<Vec<Files>, FileError> {
    match source {
        CertificateSource::Pair(pair) => Ok(vec![of_pair(pair)]),
        CertificateSource::Path(path) => {
            let unreadable = |source| FileError::Read { path: path.clone(), source };
            if fs::metadata(path).map_err(unreadable)?.is_dir() {
                in_directory(path, warnings)
            } else {
                Ok(vec![beside(path)])
            }
        }
    }
}

fn of_pair(pair: &CertificatePair) -> Files {
    let beside = beside(&pair.certificate);
    Files {
        keys: vec![pair.key.clone()],
        key_is_apart: true,
        ocsp: pair.ocsp.clone().map_or(beside.ocsp, |path| vec![path]),
        ocsp_is_named: pair.ocsp.is_some(),
        certificate: beside.certificate,
    }
}

/// A certificate whose companions are found by its name.
fn beside(certificate: &Path) -> Files {
    let companions = |ending: &str| {
        let mut appended = certificate.as_os_str().to_owned();
        appended.push(".");
        appended.push(ending);
        vec![PathBuf::from(appended), certificate.with_extension(ending)]
    };
    Files {
        certificate: certificate.to_owned(),
        keys: companions("key"),
        key_is_apart: false,
        ocsp: companions("ocsp"),
        ocsp_is_named: false,
    }
}

fn in_directory(path: &Path, warnings: &mut Vec<FileWarning>) -> Result<Vec<Files>, FileError> {
    let unreadable = |source| FileError::Read { path: path.to_owned(), source };
    let mut certificates = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(unreadable)?.take(MAX_FILES) {
        let entry = entry.map_err(unreadable)?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ending = entry.extension().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || COMPANIONS.contains(&ending.as_str()) {
            continue;
        }
        if entry.is_dir() {
            let reason = "directories within the directory are not read";
            warnings.push(FileWarning::Ignored { path: entry, reason });
            continue;
        }
        certificates.insert(entry);
    }
    if certificates.is_empty() {
        return Err(FileError::Missing { path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates.iter().map(|path| beside(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(present: &[&str], expected: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        for name in present {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let source = CertificateSource::Path(directory.path().to_owned());
        let found = files(&source, &mut Vec::new()).unwrap_or_default();
        let names = found.iter().map(|files| files.certificate.file_name().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_directory_gives_certificates_in_the_order_of_their_names() {
        check(&["b.pem", "a.crt", "c"], &["a.crt", "b.pem", "c"]);
        check(&["a.pem", "a.pem.key", "a.key", "a.ocsp", "a.csr", ".a.pem.swp"], &["a.pem"]);
        check(&["a.key"], &[]);
    }

    #[test]
    fn companions_are_looked_for_under_both_names() {
        let files = beside(Path::new("/certs/www.example.com.pem"));
        let expected = ["/certs/www.example.com.pem.key", "/certs/www.example.com.key"];
        assert_eq!(files.keys, expected.map(PathBuf::from));
    }
}
