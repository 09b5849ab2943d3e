//! An authority made when a test runs, and what it issues.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority with its certificate in a directory, as `ca.crt`.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        parameters.distinguished_name.push(DnType::CommonName, "Test Authority");
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let authority = Self { issuer, directory: directory.to_owned() };
        fs::write(authority.certificate(), authority.issuer.pem())?;
        write_secret(&directory.join("ca.key"), &authority.issuer.key().serialize_pem())?;
        Ok(authority)
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Writes a certificate for these names, with its key, into one file of the directory.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Result<PathBuf> {
        let path = self.directory.join(file);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names.clone())?;
        parameters.distinguished_name = DistinguishedName::new();
        let common_name = names.first().context("a certificate has a name")?;
        parameters.distinguished_name.push(DnType::CommonName, common_name.as_str());
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        write_secret(&path, &format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        Ok(path)
    }
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft.key");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path).with_context(|| format!("write {}", path.display()))
}
