//! `tls`: what is terminated at a bind address, and what is encrypted again towards servers.
//!
//! Values only: files are named here and read by `proxy::tls`.

use std::{path::PathBuf, time::Duration};

/// `bind[N].tls`: TLS ends here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindTls {
    /// Where certificates come from; at least one. The first certificate of the first
    /// source is the default.
    pub certificates: Vec<CertificateSource>,
    /// Protocols offered by ALPN, most wanted first; empty for no ALPN.
    pub alpn: Vec<String>,
    /// Versions and cipher suites.
    pub parameters: TlsParameters,
    /// Whether clients show certificates; none means they are not asked.
    pub client_auth: Option<ClientAuth>,
    /// Session tickets.
    pub tickets: Tickets,
    /// Clients whose server name no certificate has are refused, and so are those that send
    /// no name; otherwise they get the default certificate.
    pub strict_sni: bool,
    /// Longest time a handshake may take, the wait for room included.
    pub handshake_timeout: Duration,
    /// Most handshakes of this bind address at one time, over all workers.
    pub max_handshakes: u32,
}

/// Where one or more certificates come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// A PEM file, or a directory of them. The key is in the same file, or beside it.
    Path(PathBuf),
    /// A PEM file with the chain, and its companions by name.
    Pair(CertificatePair),
}

/// A certificate whose parts are named one by one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificatePair {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// A DER-encoded OCSP response to staple; none to look beside the certificate.
    pub ocsp: Option<PathBuf>,
}

/// Versions and cipher suites, for clients and servers alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsParameters {
    /// Lowest version that is spoken.
    pub min_version: TlsVersion,
    /// Highest version that is spoken; never below `min_version`.
    pub max_version: TlsVersion,
    /// Cipher suites, most wanted first; none means all of them. Every version of the range
    /// has at least one of them.
    pub ciphers: Option<Vec<CipherSuite>>,
}

impl Default for TlsParameters {
    fn default() -> Self {
        Self { min_version: TlsVersion::V1_2, max_version: TlsVersion::V1_3, ciphers: None }
    }
}

/// A version of TLS. Older ones are broken (RFC 8996) and not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// A cipher suite: forward secret and authenticated, there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// TLS 1.3.
    Aes128Gcm,
    /// TLS 1.3.
    Aes256Gcm,
    /// TLS 1.3.
    ChaCha20,
    /// TLS 1.2.
    EcdheEcdsaAes128Gcm,
    /// TLS 1.2.
    EcdheEcdsaAes256Gcm,
    /// TLS 1.2.
    EcdheEcdsaChaCha20,
    /// TLS 1.2.
    EcdheRsaAes128Gcm,
    /// TLS 1.2.
    EcdheRsaAes256Gcm,
    /// TLS 1.2.
    EcdheRsaChaCha20,
}

impl CipherSuite {
    /// Every suite with its name in the IANA registry and its name in OpenSSL.
    pub const ALL: [(Self, &'static str, &'static str); 9] = [
        (Self::Aes256Gcm, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        (Self::Aes128Gcm, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        (Self::ChaCha20, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        (
            Self::EcdheEcdsaAes256Gcm,
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            Self::EcdheEcdsaAes128Gcm,
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            Self::EcdheEcdsaChaCha20,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        (
            Self::EcdheRsaAes256Gcm,
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            Self::EcdheRsaAes128Gcm,
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            Self::EcdheRsaChaCha20,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ];

    /// The version the suite belongs to.
    #[must_use]
    pub const fn version(self) -> TlsVersion {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20 => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        }
    }

    /// The suite of this name, in either spelling.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, iana, openssl)| *iana == name || *openssl == name);
        found.map(|(suite, _, _)| *suite)
    }
}

/// `client_auth`: certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// PEM bundle of the authorities that may have issued them.
    pub ca: PathBuf,
    /// Clients without a certificate are refused; otherwise they are served, and rules see
    /// that they have none. A bad certificate is refused in either case.
    pub required: bool,
    /// PEM bundle of revocation lists.
    pub crl: Option<PathBuf>,
}

/// `tickets`: stateless resumption (RFC 5077, RFC 8446 section 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tickets {
    /// Whether tickets are issued and taken.
    pub enabled: bool,
    /// How long a key makes tickets; it then opens them for the same time again.
    pub rotation: Duration,
}

/// `tls` of a backend: connections to its servers are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// Against what the server's certificate is verified.
    pub verify: Verify,
    /// Name sent as SNI, and the name the certificate must have; none to send no name and
    /// to expect the server's IP address in its certificate.
    pub sni: Option<String>,
    /// The certificate shown to servers that ask for one.
    pub client_certificate: Option<CertificateSource>,
    /// Versions and cipher suites.
    pub parameters: TlsParameters,
    /// Longest time a handshake may take.
    pub handshake_timeout: Duration,
}

/// Against what the certificates of servers are verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// The authorities the operating system trusts.
    System,
    /// The authorities in a PEM bundle.
    Bundle(PathBuf),
    /// Nothing: anyone on the way can read and change what is sent.
    Off,
}
