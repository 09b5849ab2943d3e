//! What is wrong with the files of a TLS configuration, and who is to blame for a
//! handshake that failed.

use std::{fmt, io, path::PathBuf, time::Duration};

use rustls::{AlertDescription, CertificateError, Error as Tls};

use crate::proxy::outcome::{Cause, Outcome, Phase};

/// Why a file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can not be read.
    #[error("can not read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than any good one.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Largest size that is read.
        limit: u64,
    },
    /// It is not PEM, or broken.
    #[error("{} is not good PEM: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// There is nothing of the kind that is needed in it.
    #[error("{} holds no {what}", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// What was looked for: "certificate", "private key".
        what: &'static str,
    },
    /// No private key in the certificate's file or beside it.
    #[error(
        "no private key for {}: neither in the file, nor in {}",
        path.display(),
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoKey {
        /// The certificate's file.
        path: PathBuf,
        /// Where else it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A private key is encrypted; there is nobody to ask for the passphrase.
    #[error("the private key in {} is encrypted; write it without a passphrase", path.display())]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key do not belong together, or one of them is broken.
    #[error("the certificate {} and its key can not be used: {source}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: Tls,
    },
    /// The leaf certificate is not good X.509.
    #[error("the certificate in {} is not good X.509: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// An OCSP response that no client would take.
    #[error("the OCSP response {} can not be stapled: {reason}", path.display())]
    Ocsp {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Authorities or revocation lists that rustls does not take.
    #[error("{} can not be used to verify certificates: {reason}", path.display())]
    Authority {
        /// The bundle.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The operating system has no authorities.
    #[error("no certificate authority of the system could be read: {reason}")]
    NoSystemRoots {
        /// What the system says.
        reason: String,
    },
    /// A server name that is none.
    #[error("{name:?} is not a server name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// rustls does not take the parameters.
    #[error("versions and cipher suites do not work together: {0}")]
    Parameters(Tls),
    /// The system gave no randomness for ticket keys.
    #[error("can not make keys for session tickets: {0}")]
    Tickets(Tls),
}

/// Everything that is wrong with the files of one configuration; at least one thing.
#[derive(Debug)]
pub struct FileErrors(pub Vec<FileError>);

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
            if let Some(source) = std::error::Error::source(error) {
                write!(f, ": {source}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for FileErrors {}

impl From<FileError> for FileErrors {
    fn from(error: FileError) -> Self {
        Self(vec![error])
    }
}

/// Something that works, but hardly as it is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileWarning {
    /// Others than the owner can read a private key.
    #[error(
        "the private key in {} can be read by others than its owner (mode {mode:04o}); chmod 600",
        path.display()
    )]
    KeyReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A certificate has run out, or is not valid yet.
    #[error("the certificate in {} {state}", path.display())]
    Validity {
        /// The file.
        path: PathBuf,
        /// "expired at ..." or "is not valid before ...".
        state: String,
    },
    /// A revocation list has run out.
    #[error(
        "a revocation list in {} ran out at {due}: what was revoked since is not known",
        path.display()
    )]
    Outdated {
        /// The file.
        path: PathBuf,
        /// When the next one was due.
        due: String,
    },
    /// Certificates of servers are not verified.
    #[error(
        "`verify: false`: whoever is on the way to the servers can read and change what is sent"
    )]
    NotVerified,
    /// A file of a directory was passed over.
    #[error("{} is not used: {reason}", path.display())]
    Ignored {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// Some authorities of the system or of a bundle are broken.
    #[error("{count} certificates of {place} are broken and not used")]
    BrokenAuthorities {
        /// How many.
        count: usize,
        /// Where they come from.
        place: String,
    },
}

/// Who made a connection fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The side we accepted from, or connected to.
    Peer,
    /// Our configuration or our host.
    Us,
    /// A limit of our configuration.
    Limit,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the handshake took longer than {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// No room for another handshake came free in time.
    #[error("{limit} handshakes at a time are under way already")]
    Busy {
        /// The limit.
        limit: u32,
    },
    /// The peer hung up, or the connection broke.
    #[error("the peer hung up during the handshake: {0}")]
    Gone(io::Error),
    /// The peer refused what we sent.
    #[error("the peer sent the alert {0:?}")]
    Alert(AlertDescription),
    /// The client showed no certificate and one is required.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The peer's certificate is not good.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(CertificateError),
    /// No certificate has the server name that the client asked for.
    #[error("no certificate for the server name the client sent")]
    UnknownName,
    /// No version, cipher suite or protocol in common.
    #[error("nothing in common with the peer: {0}")]
    Incompatible(Tls),
    /// The peer does not speak TLS, or badly.
    #[error("the peer does not speak TLS as it should: {0}")]
    Protocol(Tls),
    /// Something of ours.
    #[error("the handshake can not be done here: {0}")]
    Ours(Tls),
}

impl HandshakeError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Ours(_) => Blame::Us,
            Self::Busy { .. } => Blame::Limit,
            _ => Blame::Peer,
        }
    }

    /// What a connection comes to whose client this happened with.
    #[must_use]
    pub fn of_client(&self) -> Outcome {
        let cause = match (self, self.blame()) {
            (Self::Timeout { .. }, _) => Cause::ClientTimeout,
            (_, Blame::Peer) => Cause::Client,
            (_, Blame::Limit) => Cause::Policy,
            (_, Blame::Us) => Cause::Host,
        };
        Outcome::new(cause, Phase::Request, self.client_reason())
    }

    /// What an attempt to reach a server comes to that this happened with.
    #[must_use]
    pub fn of_server(&self) -> Outcome {
        let cause = match (self, self.blame()) {
            (Self::Timeout { .. }, _) => Cause::ServerTimeout,
            (_, Blame::Us) => Cause::Host,
            _ => Cause::Server,
        };
        Outcome::new(cause, Phase::Connect, self.server_reason())
    }

    /// The word for a handshake with a client.
    #[must_use]
    pub const fn client_reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "tls_timeout",
            Self::Busy { .. } => "tls_busy",
            Self::Gone(_) => "tls_gone",
            Self::Alert(_) => "tls_alert",
            Self::NoCertificate => "tls_no_certificate",
            Self::Certificate(_) => "tls_bad_certificate",
            Self::UnknownName => "tls_unknown_name",
            Self::Incompatible(_) => "tls_incompatible",
            Self::Protocol(_) => "tls_protocol",
            Self::Ours(_) => "tls_internal",
        }
    }

    /// The word for a handshake with a server.
    #[must_use]
    pub const fn server_reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "server_tls_timeout",
            Self::Gone(_) => "server_tls_gone",
            Self::Alert(_) => "server_tls_alert",
            Self::Certificate(_) => "server_tls_bad_certificate",
            Self::Incompatible(_) => "server_tls_incompatible",
            Self::Ours(_) => "server_tls_internal",
            _ => "server_tls_protocol",
        }
    }
}

impl From<io::Error> for HandshakeError {
    /// rustls' errors travel inside those of the stream.
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
            Some(tls) => tls.clone().into(),
            None => Self::Gone(error),
        }
    }
}

impl From<Tls> for HandshakeError {
    fn from(error: Tls) -> Self {
        match error {
            Tls::AlertReceived(alert) => Self::Alert(alert),
            Tls::NoCertificatesPresented => Self::NoCertificate,
            Tls::InvalidCertificate(reason) => Self::Certificate(reason),
            Tls::PeerIncompatible(_) | Tls::NoApplicationProtocol => Self::Incompatible(error),
            Tls::InappropriateMessage { .. }
            | Tls::InappropriateHandshakeMessage { .. }
            | Tls::InvalidMessage(_)
            | Tls::InvalidEncryptedClientHello(_)
            | Tls::DecryptError
            | Tls::PeerMisbehaved(_)
            | Tls::PeerSentOversizedRecord => Self::Protocol(error),
            _ => Self::Ours(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::PeerIncompatible;

    use super::*;

    fn check(error: Tls, expected: (&str, Blame)) {
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
        let error = HandshakeError::from(wrapped);
        assert_eq!((error.client_reason(), error.blame()), expected);
    }

    #[test]
    fn a_failed_handshake_says_who_is_to_blame() {
        check(Tls::AlertReceived(AlertDescription::UnknownCA), ("tls_alert", Blame::Peer));
        check(Tls::NoCertificatesPresented, ("tls_no_certificate", Blame::Peer));
        check(
            Tls::InvalidCertificate(CertificateError::Expired),
            ("tls_bad_certificate", Blame::Peer),
        );
        check(
            Tls::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            ("tls_incompatible", Blame::Peer),
        );
        check(Tls::DecryptError, ("tls_protocol", Blame::Peer));
        check(Tls::FailedToGetRandomBytes, ("tls_internal", Blame::Us));
        let late = HandshakeError::Timeout { after: Duration::from_secs(1) };
        assert_eq!(
            (late.of_client().to_string(), late.of_server().to_string()),
            ("cR".into(), "sC".into())
        );
        let busy = HandshakeError::Busy { limit: 1 };
        assert_eq!(busy.of_client(), Outcome::new(Cause::Policy, Phase::Request, "tls_busy"));
        let gone = HandshakeError::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!((gone.client_reason(), gone.blame()), ("tls_gone", Blame::Peer));
    }
}
