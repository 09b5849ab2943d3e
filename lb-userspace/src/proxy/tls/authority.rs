//! Who may have issued the certificates of peers: bundles of authorities, lists of what
//! they revoked, and the verifiers made of them.

use std::{path::Path, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

use super::{
    error::{FileError, FileWarning},
    pem,
};
use crate::model::tls::{ClientAuth, Verify};

/// What verifies clients: their certificates have to lead to an authority of the bundle.
///
/// # Errors
/// [`FileError`]: a bundle is missing, broken or empty.
pub(super) fn client_verifier(
    auth: &ClientAuth,
    provider: &Arc<CryptoProvider>,
    warnings: &mut Vec<FileWarning>,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    let roots = Arc::new(bundle(&auth.ca, warnings)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if !auth.required {
        builder = builder.allow_unauthenticated();
    }
    if let Some(path) = &auth.crl {
        let lists = pem::read(path)?.revocations;
        if lists.is_empty() {
            return Err(FileError::Missing { path: path.clone(), what: "revocation list" });
        }
        warnings.extend(lists.iter().filter_map(|list| outdated(list, path)));
        // Every certificate of a chain has to be on record, as HAProxy and nginx have it: with
        // a list of another authority nothing would be revoked, and nobody would know. A list
        // that has run out revokes as before; refusing everybody for it would be an outage.
        builder = builder.with_crls(lists);
    }
    builder.build().map_err(|error| FileError::Authority {
        path: auth.crl.clone().unwrap_or_else(|| auth.ca.clone()),
        reason: error.to_string(),
    })
}

/// A warning if a list has run out; one that is broken is an error elsewhere.
fn outdated(list: &CertificateRevocationListDer<'_>, path: &Path) -> Option<FileWarning> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    let due = parsed.next_update().filter(|due| *due < ASN1Time::now())?;
    Some(FileWarning::Outdated { path: path.into(), due: due.to_string() })
}

/// What verifies servers.
///
/// # Errors
/// [`FileError`]: the bundle is missing, broken or empty, or the system has none.
pub(super) fn server_verifier(
    verify: &Verify,
    provider: &Arc<CryptoProvider>,
    warnings: &mut Vec<FileWarning>,
) -> Result<Arc<dyn ServerCertVerifier>, FileError> {
    let roots = match verify {
        Verify::Off => {
            warnings.push(FileWarning::NotVerified);
            return Ok(Arc::new(Unverified(Arc::clone(provider))));
        }
        Verify::System => system(warnings)?,
        Verify::Bundle(path) => bundle(path, warnings)?,
    };
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    match builder.build() {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(FileError::NoSystemRoots { reason: error.to_string() }),
    }
}

fn bundle(path: &Path, warnings: &mut Vec<FileWarning>) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let (good, broken) = roots.add_parsable_certificates(pem::read(path)?.certificates);
    warn_of_broken(broken, &path.display().to_string(), warnings);
    if good == 0 {
        return Err(FileError::Missing { path: path.into(), what: "authority's certificate" });
    }
    Ok(roots)
}

fn system(warnings: &mut Vec<FileWarning>) -> Result<RootCertStore, FileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (good, broken) = roots.add_parsable_certificates(found.certs);
    warn_of_broken(broken + found.errors.len(), "the system", warnings);
    if good == 0 {
        let reason = found.errors.first().map_or("there are none".into(), ToString::to_string);
        return Err(FileError::NoSystemRoots { reason });
    }
    Ok(roots)
}

fn warn_of_broken(count: usize, place: &str, warnings: &mut Vec<FileWarning>) {
    if count > 0 {
        warnings.push(FileWarning::BrokenAuthorities { count, place: place.into() });
    }
}

/// `verify: false`: any certificate will do. That the server has the certificate's key is
/// checked all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
