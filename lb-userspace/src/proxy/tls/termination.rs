//! TLS of one bind address: the configuration in force, handshakes with clients, reloads.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, Error as Tls, ServerConfig,
    crypto::CryptoProvider,
    server::{Acceptor, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::{
    authority,
    error::{FileError, FileErrors, FileWarning, HandshakeError},
    facts::TlsFacts,
    parameters, pem,
    store::CertificateStore,
    tickets::TicketKeys,
    watch::{Reloadable, Stamp},
};
use crate::model::tls::{BindTls, CertificateSource, ClientAuth};

/// TLS of one bind address; shared by all workers.
#[derive(Debug)]
pub struct Termination {
    settings: BindTls,
    in_force: ArcSwap<InForce>,
    /// Room for handshakes that have begun with a whole ClientHello. One that stalls before
    /// costs no more than any idle connection, and may not keep others out.
    handshakes: Semaphore,
}

/// What was read from files, and what goes with it.
#[derive(Debug)]
struct InForce {
    server: Arc<ServerConfig>,
    store: Arc<CertificateStore>,
    tickets: TicketKeys,
    /// Digest of what verifies clients; tickets of one are no good under another.
    authority: Option<[u8; 32]>,
    /// Of the files, before they were read.
    stamp: Stamp,
}

impl Termination {
    /// Reads every file. Ticket keys are taken over from the `predecessor` at the same
    /// address, if it lets in the same clients.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn load(
        settings: BindTls,
        predecessor: Option<&Self>,
    ) -> Result<(Self, Vec<FileWarning>), FileErrors> {
        let old = predecessor.map(|old| old.in_force.load_full());
        let same = predecessor.is_some_and(|old| {
            old.settings.client_auth == settings.client_auth
                && old.settings.tickets == settings.tickets
        });
        let mut warnings = Vec::new();
        let old = old.as_deref().filter(|_| same);
        let in_force = read(&settings, old, &mut warnings)?;
        let room = usize::try_from(settings.max_handshakes).unwrap_or(usize::MAX);
        let termination = Self {
            settings,
            in_force: ArcSwap::from_pointee(in_force),
            handshakes: Semaphore::new(room.min(Semaphore::MAX_PERMITS)),
        };
        Ok((termination, warnings))
    }

    /// What it was made of.
    #[must_use]
    pub fn settings(&self) -> &BindTls {
        &self.settings
    }

    /// Does the handshake with a client.
    ///
    /// # Errors
    /// [`HandshakeError`]; the client was sent an alert where TLS has one for the case.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, TlsFacts), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let after = self.settings.handshake_timeout;
        let deadline = Instant::now() + after;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = match timeout_at(deadline, hello).await {
            Ok(started) => started?,
            Err(_elapsed) => return Err(HandshakeError::Timeout { after }),
        };
        let Ok(permit) = timeout_at(deadline, self.handshakes.acquire()).await else {
            return Err(HandshakeError::Busy { limit: self.settings.max_handshakes });
        };
        match timeout_at(deadline, self.finish(start, permit.ok())).await {
            Ok(finished) => finished,
            Err(_elapsed) => Err(HandshakeError::Timeout { after }),
        }
    }

    /// Whether a request for `host` (lower case, without a port) does not belong on a
    /// connection whose client asked for `name` (RFC 9110, 15.5.20). Where names decide
    /// about who is let in, by `strict_sni` or with client certificates in play, a
    /// connection is good for those hosts alone that are shown the same certificate.
    #[must_use]
    pub fn is_misdirected(&self, name: Option<&str>, host: &str) -> bool {
        let names_matter = self.settings.strict_sni || self.settings.client_auth.is_some();
        let is_other = |name| name != host && !self.in_force.load().store.is_same_for(name, host);
        names_matter && name.is_some_and(is_other)
    }

    async fn finish<S>(
        &self,
        start: StartHandshake<S>,
        _room: Option<SemaphorePermit<'_>>,
    ) -> Result<(TlsStream<S>, TlsFacts), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server = Arc::clone(&self.in_force.load().server);
        match start.into_stream(server).await.map_err(HandshakeError::from) {
            Ok(stream) => {
                let facts = TlsFacts::of(stream.get_ref().1);
                // Verified in the first handshake of the session; resumed again and again,
                // a session would have no end.
                if facts.resumed && facts.client.as_ref().is_some_and(|it| it.has_expired()) {
                    return Err(HandshakeError::Certificate(CertificateError::Expired));
                }
                Ok((stream, facts))
            }
            // What rustls says if the store has no certificate for the client.
            Err(HandshakeError::Ours(Tls::General(_))) if self.settings.strict_sni => {
                Err(HandshakeError::UnknownName)
            }
            Err(error) => Err(error),
        }
    }
}

impl Reloadable for Termination {
    fn stamp(&self) -> Stamp {
        stamp(&self.settings)
    }

    fn stamp_in_force(&self) -> Stamp {
        self.in_force.load().stamp.clone()
    }

    fn reload(&self) -> Result<Vec<FileWarning>, FileErrors> {
        let mut warnings = Vec::new();
        let in_force = read(&self.settings, Some(&self.in_force.load()), &mut warnings)?;
        self.in_force.store(Arc::new(in_force));
        Ok(warnings)
    }
}

/// Everything that files say, judged as a whole.
fn read(
    settings: &BindTls,
    old: Option<&InForce>,
    warnings: &mut Vec<FileWarning>,
) -> Result<InForce, FileErrors> {
    let stamp = stamp(settings);
    let provider = parameters::provider(&settings.parameters);
    let sources = &settings.certificates;
    let store = CertificateStore::load(sources, settings.strict_sni, &provider, warnings);
    let verifier = verifier(settings.client_auth.as_ref(), &provider, warnings);
    let authority = settings.client_auth.as_ref().map(digest).transpose();
    let (store, verifier, authority) = match (store, verifier, authority) {
        (Ok(store), Ok(verifier), Ok(authority)) => (store, verifier, authority),
        (store, verifier, authority) => {
            let mut errors = store.err().map(|errors| errors.0).unwrap_or_default();
            // One fault of a bundle is enough.
            errors.extend(verifier.err().or(authority.err()));
            return Err(FileErrors(errors));
        }
    };
    let tickets = match old {
        Some(old) if old.authority == authority => old.tickets.clone(),
        _ => TicketKeys::new(settings.tickets).map_err(FileError::Tickets)?,
    };
    let store = Arc::new(store);
    let versions = parameters::versions(&settings.parameters);
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(FileError::Parameters)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::<CertificateStore>::clone(&store));
    server.alpn_protocols =
        settings.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    tickets.install(&mut server);
    Ok(InForce { server: Arc::new(server), store, tickets, authority, stamp })
}

fn verifier(
    auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
    warnings: &mut Vec<FileWarning>,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    match auth {
        Some(auth) => authority::client_verifier(auth, provider, warnings),
        None => Ok(WebPkiClientVerifier::no_client_auth()),
    }
}

/// Digest of the bundles that decide who is let in.
fn digest(auth: &ClientAuth) -> Result<[u8; 32], FileError> {
    let mut digest = Sha256::new();
    for path in [Some(&auth.ca), auth.crl.as_ref()].into_iter().flatten() {
        let bytes = pem::bytes(path)?;
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    }
    Ok(digest.finalize().into())
}

fn stamp(settings: &BindTls) -> Stamp {
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for source in &settings.certificates {
        match source {
            CertificateSource::Path(path) => {
                paths.extend(super::watch::with_companions(path));
            }
            CertificateSource::Pair(pair) => {
                paths.extend(super::watch::with_companions(&pair.certificate));
                paths.extend([pair.key.clone()].into_iter().chain(pair.ocsp.clone()));
            }
        }
    }
    if let Some(auth) = &settings.client_auth {
        paths.extend([auth.ca.clone()].into_iter().chain(auth.crl.clone()));
    }
    Stamp::of(&paths)
}
