//! TLS towards the servers of one backend: verification, server name, client certificate.

use crate::model::address::ServerAddress;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    authority,
    certificate::chain_and_key,
    error::{FileError, FileErrors, FileWarning, HandshakeError},
    parameters, source,
    watch::{Reloadable, Stamp, with_companions},
};
use crate::model::tls::{CertificateSource, ServerTls, Verify};

/// TLS towards the servers of one backend; shared by all workers, and so are its sessions.
#[derive(Debug)]
pub struct Encryption {
    settings: ServerTls,
    /// The configured name; none to expect each server's address.
    name: Option<ServerName<'static>>,
    in_force: ArcSwap<InForce>,
}

#[derive(Debug)]
struct InForce {
    client: Arc<ClientConfig>,
    stamp: Stamp,
}

impl Encryption {
    /// Reads every file.
    ///
    /// # Errors
    /// Everything that is wrong with the files, or with the name.
    pub fn load(settings: ServerTls) -> Result<(Self, Vec<FileWarning>), FileErrors> {
        let mut warnings = Vec::new();
        let in_force = read(&settings, &mut warnings);
        let name = settings.sni.clone().map(|name| {
            let refused = |_| FileError::ServerName { name: name.clone() };
            ServerName::try_from(name.clone()).map_err(refused)
        });
        match (in_force, name.transpose()) {
            (Ok(in_force), Ok(name)) => {
                Ok((Self { settings, name, in_force: ArcSwap::from_pointee(in_force) }, warnings))
            }
            (in_force, name) => {
                let mut errors = in_force.err().map(|errors| errors.0).unwrap_or_default();
                errors.extend(name.err());
                Err(FileErrors(errors))
            }
        }
    }

    /// What it was made of.
    #[must_use]
    pub fn settings(&self) -> &ServerTls {
        &self.settings
    }

    /// Does the handshake with the server at `address`, offering `alpn`, most wanted first.
    ///
    /// # Errors
    /// [`HandshakeError`]; the peer to blame is the server. Nothing was sent that a client
    /// asked for, so another server may be tried.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub async fn connect<S>(
        &self,
        stream: S,
        address: ServerAddress,
        alpn: &[&[u8]],
    ) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name.clone().unwrap_or_else(|| match address {
            ServerAddress::Ip(address) => address.ip().into(),
            // Where the certificate is verified the configuration has a name.
            ServerAddress::Unix(_) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST).into(),
        });
        let connector = TlsConnector::from(Arc::clone(&self.in_force.load().client));
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let after = self.settings.handshake_timeout;
        match timeout(after, connector.with_alpn(alpn).connect(name, stream)).await {
            Ok(connected) => Ok(connected?),
            Err(_elapsed) => Err(HandshakeError::Timeout { after }),
        }
    }
}

impl Reloadable for Encryption {
    fn stamp(&self) -> Stamp {
        stamp(&self.settings)
    }

    fn stamp_in_force(&self) -> Stamp {
        self.in_force.load().stamp.clone()
    }

    fn reload(&self) -> Result<Vec<FileWarning>, FileErrors> {
        let mut warnings = Vec::new();
        let in_force = read(&self.settings, &mut warnings)?;
        self.in_force.store(Arc::new(in_force));
        Ok(warnings)
    }
}

fn read(settings: &ServerTls, warnings: &mut Vec<FileWarning>) -> Result<InForce, FileErrors> {
    let stamp = stamp(settings);
    let provider = parameters::provider(&settings.parameters);
    let verifier = authority::server_verifier(&settings.verify, &provider, warnings);
    let shown = settings.client_certificate.as_ref().map(|source| {
        let files = source::files(source, warnings)?.swap_remove(0);
        chain_and_key(&files, warnings).map(|parts| (files.certificate, parts))
    });
    let (verifier, shown) = match (verifier, shown.transpose()) {
        (Ok(verifier), Ok(shown)) => (verifier, shown),
        (verifier, shown) => {
            return Err(FileErrors(verifier.err().into_iter().chain(shown.err()).collect()));
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&parameters::versions(&settings.parameters))
        .map_err(FileError::Parameters)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = match shown {
        Some((path, (chain, key))) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| FileError::Unusable { path, source })?,
        None => builder.with_no_client_auth(),
    };
    client.enable_sni = settings.sni.is_some();
    Ok(InForce { client: Arc::new(client), stamp })
}

fn stamp(settings: &ServerTls) -> Stamp {
    let mut paths = BTreeSet::new();
    if let Verify::Bundle(path) = &settings.verify {
        paths.insert(path.clone());
    }
    match &settings.client_certificate {
        Some(CertificateSource::Path(path)) => paths.extend(with_companions(path)),
        Some(CertificateSource::Pair(pair)) => {
            paths.extend([pair.certificate.clone(), pair.key.clone()]);
        }
        None => {}
    }
    Stamp::of(&paths)
}
