//! What is known of a TLS connection: for rules, headers and logs.
//!
//! Texts out of certificates are what a client and its authority wrote. They are escaped
//! here once, so that whoever puts one into a header or a log line can do so as it is.

use std::{
    fmt::Write,
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{ProtocolVersion, pki_types::CertificateDer, server::ServerConnection};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::parameters::suite_name;

/// What was agreed with a client, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite under OpenSSL's name.
    pub cipher: &'static str,
    /// The server name the client asked for, lower case.
    pub sni: Option<Box<str>>,
    /// The protocol that was agreed on by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// The session was resumed: no certificate was sent, and the client's certificate is
    /// that of the first handshake.
    pub resumed: bool,
    /// The client's certificate; none if it showed none or was not asked.
    pub client: Option<Arc<ClientCertificate>>,
}

/// A verified client certificate. All texts are printable ASCII: other characters,
/// backslashes and bytes are written as `\xNN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name: `CN=alice, O=Example`.
    pub subject: String,
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// Its alternative names, with their kind: `DNS:a.example.com`, `email:`, `URI:`, `IP:`.
    pub alternative_names: Vec<String>,
    /// When it runs out, seconds since 1970.
    pub not_after: i64,
}

impl TlsFacts {
    /// Of a connection whose handshake is complete.
    pub(super) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version,
            cipher: connection.negotiated_cipher_suite().map_or("unknown", suite_name),
            sni: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            alpn: connection.alpn_protocol().map(Into::into),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            client: leaf.and_then(|leaf| ClientCertificate::read(leaf)).map(Arc::new),
        }
    }
}

impl ClientCertificate {
    /// Whether it has run out.
    pub(super) fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).is_ok_and(|now| now > self.not_after)
    }

    /// Reads a leaf certificate; none if it is not X.509, which verification has ruled out.
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common_names = certificate.subject().iter_common_name();
        let extension = certificate.subject_alternative_name().ok().flatten();
        let names = extension.iter().flat_map(|extension| &extension.value.general_names);
        Some(Self {
            subject: printable(certificate.subject().to_string().as_bytes()),
            common_name: common_names.last().map(|name| printable(name.as_slice())),
            issuer: printable(certificate.issuer().to_string().as_bytes()),
            serial: hexadecimal(certificate.raw_serial()),
            fingerprint: hexadecimal(&Sha256::digest(der)),
            alternative_names: names.filter_map(alternative_name).collect(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

/// Kinds of names that rules can be about; others are left out.
fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", printable(name.as_bytes()))),
        GeneralName::RFC822Name(name) => Some(format!("email:{}", printable(name.as_bytes()))),
        GeneralName::URI(name) => Some(format!("URI:{}", printable(name.as_bytes()))),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let sixteen = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| sixteen()).ok().map(|address| format!("IP:{address}"))
        }
        _ => None,
    }
}

/// Printable ASCII as it is, everything else byte by byte as `\xNN`.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if (b' '..=b'~').contains(&byte) && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Authority, *};

    #[test]
    fn a_certificate_is_read_into_its_parts() {
        let authority = Authority::new();
        let issued = authority.issue_client("alice", &["alice.example.com", "10.0.0.7"]);
        let facts = ClientCertificate::read(&issued.chain[0]).unwrap();
        assert_eq!(facts.common_name.as_deref(), Some("alice"));
        assert_eq!(facts.subject, "CN=alice");
        assert!(facts.issuer.contains("CN="), "{}", facts.issuer);
        assert_eq!(facts.alternative_names, ["DNS:alice.example.com", "IP:10.0.0.7"]);
        assert_eq!(facts.fingerprint.len(), 64);
        assert!(facts.serial.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", facts.serial);
        assert!(facts.not_after > 1_700_000_000);
    }

    #[test]
    fn a_hostile_name_can_not_end_a_header() {
        let authority = Authority::new();
        let issued = authority.issue_client("a\r\nX-Admin: yes\\\u{e9}", &[]);
        let facts = ClientCertificate::read(&issued.chain[0]).unwrap();
        let name = facts.common_name.unwrap();
        assert_eq!(name, "a\\x0d\\x0aX-Admin: yes\\x5c\\xc3\\xa9");
        assert!(!facts.subject.contains(['\r', '\n']), "{:?}", facts.subject);
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert!(ClientCertificate::read(&CertificateDer::from(vec![0x30, 0x82, 0xff])).is_none());
        assert!(ClientCertificate::read(&CertificateDer::from(Vec::new())).is_none());
    }
}
