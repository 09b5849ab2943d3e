//! Certificates by server name: exact before wildcard before default, and among
//! certificates of one name the first that the client can verify.
//!
//! A store is immutable; a reload makes another.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureScheme,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    certificate::Certificate,
    error::{FileErrors, FileWarning},
    source,
};
use crate::model::tls::CertificateSource;

/// Every certificate of a bind address.
#[derive(Debug)]
pub(super) struct CertificateStore {
    /// Full names, and of wildcards what follows the star: `.example.com`. Never an empty
    /// list.
    by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// All of the first certificate's names or of none: not empty.
    default: Vec<Arc<CertifiedKey>>,
    /// Without a certificate of the name there is none.
    is_strict: bool,
}

impl CertificateStore {
    /// Reads all sources. The first certificate is the default.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub(super) fn load(
        sources: &[CertificateSource],
        is_strict: bool,
        provider: &CryptoProvider,
        warnings: &mut Vec<FileWarning>,
    ) -> Result<Self, FileErrors> {
        let mut certificates = Vec::new();
        let mut errors = Vec::new();
        for source in sources {
            match source::files(source, warnings) {
                Ok(files) => {
                    for files in files {
                        match Certificate::load(&files, provider, warnings) {
                            Ok(certificate) => certificates.push(certificate),
                            Err(error) => errors.push(error),
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self::new(certificates, is_strict))
        } else {
            Err(FileErrors(errors))
        }
    }

    fn new(certificates: Vec<Certificate>, is_strict: bool) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut default: Vec<Arc<CertifiedKey>> = Vec::new();
        let mut default_names = Default::default();
        for certificate in certificates {
            // A certificate of another kind of key for the default's names is default too.
            if default.is_empty() || certificate.names == default_names {
                default_names = certificate.names.clone();
                default.push(Arc::clone(&certificate.key));
            }
            for name in &certificate.names {
                let key = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(key.into()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        Self { by_name, default, is_strict }
    }

    /// The certificate for a client that asks for `name`, lower case, and verifies
    /// signatures of `schemes`.
    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            // A star stands for one label, and not for a part of one (RFC 6125 6.4.3).
            let parent = || name.find('.').and_then(|dot| self.by_name.get(&name[dot..]));
            self.by_name.get(name).or_else(parent)
        });
        let candidates = match named {
            Some(candidates) => candidates,
            None if self.is_strict => return None,
            None => &self.default,
        };
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        candidates.iter().find(fits).or_else(|| candidates.first())
    }
}

impl CertificateStore {
    /// Whether two clients that differ in the name they ask for are shown the same
    /// certificate; not if one of them is shown none.
    pub(super) fn is_same_for(&self, one: &str, other: &str) -> bool {
        let shown = |name| self.choose(Some(name), &[]);
        match (shown(one), shown(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let lower = hello.server_name().map(str::to_ascii_lowercase);
        self.choose(lower.as_deref(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Authority, *};

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

    struct Fixture {
        store: CertificateStore,
        keys: Vec<Arc<CertifiedKey>>,
    }

    fn fixture(names: &[&[&str]], is_strict: bool) -> Fixture {
        let authority = Authority::new();
        let certificates: Vec<Certificate> = names
            .iter()
            .map(|names| {
                let names_set = names.iter().map(|name| (*name).to_owned()).collect();
                Certificate { key: authority.issue(names).certified(), names: names_set }
            })
            .collect();
        let keys = certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect();
        Fixture { store: CertificateStore::new(certificates, is_strict), keys }
    }

    impl Fixture {
        #[track_caller]
        fn check(&self, name: Option<&str>, expected: Option<usize>) {
            let chosen = self.store.choose(name, ECDSA);
            let index = chosen.and_then(|key| self.keys.iter().position(|k| Arc::ptr_eq(k, key)));
            assert_eq!(index, expected, "{name:?}");
        }
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_that_before_the_default() {
        let fixture =
            fixture(&[&["default.test"], &["*.example.com"], &["www.example.com"]], false);
        fixture.check(Some("www.example.com"), Some(2));
        fixture.check(Some("api.example.com"), Some(1));
        fixture.check(Some("a.b.example.com"), Some(0));
        fixture.check(Some("example.com"), Some(0));
        fixture.check(Some("other.test"), Some(0));
        fixture.check(Some(""), Some(0));
        fixture.check(Some("."), Some(0));
        fixture.check(None, Some(0));
    }

    #[test]
    fn strict_names_leave_no_default() {
        let fixture = fixture(&[&["a.test"]], true);
        fixture.check(Some("a.test"), Some(0));
        fixture.check(Some("b.test"), None);
        fixture.check(None, None);
    }

    #[test]
    fn of_two_kinds_of_key_the_client_gets_what_it_verifies() {
        let fixture = fixture(&[&["a.test"], &["a.test"]], false);
        // Both are ECDSA here: the first one that fits, and the first one if none does.
        fixture.check(Some("a.test"), Some(0));
        let chosen = fixture.store.choose(Some("a.test"), &[SignatureScheme::ED25519]);
        assert!(Arc::ptr_eq(chosen.unwrap(), &fixture.keys[0]));
    }
}
