//! Versions and cipher suites in rustls' terms.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

use crate::model::tls::{CipherSuite, TlsParameters, TlsVersion};

/// aws-lc-rs, cut down to the suites of the parameters and in their order.
pub(super) fn provider(parameters: &TlsParameters) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(ciphers) = &parameters.ciphers {
        provider.cipher_suites = ciphers.iter().map(|cipher| suite(*cipher)).collect();
    }
    Arc::new(provider)
}

/// The versions of the range.
pub(super) fn versions(parameters: &TlsParameters) -> Vec<&'static SupportedProtocolVersion> {
    let range = parameters.min_version..=parameters.max_version;
    let all = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
    all.into_iter().filter(|(version, _)| range.contains(version)).map(|(_, known)| known).collect()
}

fn suite(cipher: CipherSuite) -> SupportedCipherSuite {
    use aws_lc_rs::cipher_suite as known;
    match cipher {
        CipherSuite::Aes128Gcm => known::TLS13_AES_128_GCM_SHA256,
        CipherSuite::Aes256Gcm => known::TLS13_AES_256_GCM_SHA384,
        CipherSuite::ChaCha20 => known::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheEcdsaAes128Gcm => known::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => known::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChaCha20 => known::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => known::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => known::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChaCha20 => known::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

/// The name OpenSSL and HAProxy use for a negotiated suite.
pub(super) fn suite_name(negotiated: SupportedCipherSuite) -> &'static str {
    let known = CipherSuite::ALL.iter().find(|(cipher, _, _)| suite(*cipher) == negotiated);
    known.map_or("unknown", |(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_library_has_a_name() {
        let provider = provider(&TlsParameters::default());
        assert_eq!(provider.cipher_suites.len(), CipherSuite::ALL.len());
        for negotiated in &provider.cipher_suites {
            assert_ne!(suite_name(*negotiated), "unknown", "{negotiated:?}");
        }
    }

    #[test]
    fn suites_keep_their_order_and_belong_to_their_version() {
        let ciphers = vec![CipherSuite::ChaCha20, CipherSuite::Aes128Gcm];
        let parameters = TlsParameters { ciphers: Some(ciphers), ..TlsParameters::default() };
        let names: Vec<&str> =
            provider(&parameters).cipher_suites.iter().map(|suite| suite_name(*suite)).collect();
        assert_eq!(names, ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]);
        for (cipher, _, _) in CipherSuite::ALL {
            let is_13 = suite(cipher).tls13().is_some();
            assert_eq!(is_13, cipher.version() == TlsVersion::V1_3);
        }
    }

    #[test]
    fn a_range_of_versions_is_inclusive() {
        let only_13 = TlsParameters { min_version: TlsVersion::V1_3, ..TlsParameters::default() };
        assert_eq!(versions(&only_13), [&TLS13]);
        assert_eq!(versions(&TlsParameters::default()), [&TLS13, &TLS12]);
    }
}
