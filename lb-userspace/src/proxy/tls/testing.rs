//! Certificates for tests, made when a test runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    DnValue, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// An authority that issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) certificate_pem: String,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("Test Authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_from(&parameters(names))
    }

    /// A certificate for these names that ran out long ago.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Issued {
        let mut parameters = parameters(names);
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.issue_from(&parameters)
    }

    /// A client's certificate.
    pub(crate) fn issue_client(&self, common_name: &str, names: &[&str]) -> Issued {
        let mut parameters = parameters(names);
        let common_name = DnValue::Utf8String(common_name.into());
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        self.issue_from(&parameters)
    }

    /// A client's certificate that runs out at this many seconds since 1970.
    pub(crate) fn issue_client_until(&self, common_name: &str, end: u64) -> Issued {
        let mut parameters = parameters(&[]);
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        self.issue_from(&parameters)
    }

    /// A list, in PEM, that revokes these certificates, to be renewed in this year.
    pub(crate) fn revoke(&self, certificates: &[&Issued], next_year: i32) -> String {
        let revoked = |issued: &&Issued| {
            let (_, parsed) = X509Certificate::from_der(&issued.chain[0]).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed.raw_serial()),
                revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(next_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    fn issue_from(&self, parameters: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let chain = vec![certificate.der().clone()];
        Issued { chain, certificate_pem: certificate.pem(), key }
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes the bundle into a directory.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("ca.crt");
        fs::write(&path, self.pem()).unwrap();
        path
    }
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
}

impl Issued {
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let provider = aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::from_der(self.chain.clone(), key, &provider).unwrap())
    }

    /// Certificate and key in one text.
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key.serialize_pem())
    }

    /// Writes certificate and key into one file that only its owner can read.
    pub(crate) fn write(&self, path: &Path) {
        write_secret(path, &self.pem());
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) {
    let draft = path.with_extension("draft-of-a-test");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&draft, path).unwrap();
}
