//! `bare_proxy`: the least a proxy on hyper can do, as a yardstick for `bench_l7`. It takes
//! requests, sends them on over a kept connection, and the answers back: no rules, no limits,
//! no timeouts, no log. What pointsman costs more than this is what its pipeline costs.

mod body;
mod serve;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{net::TcpListener, runtime, task::LocalSet};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The least that a proxy on hyper can do
#[derive(Parser)]
struct Options {
    /// Where it answers HTTP/1
    #[arg(long)]
    http: SocketAddr,
    /// Where it answers HTTPS, HTTP/2 included
    #[arg(long)]
    https: SocketAddr,
    /// Certificate and key, PEM
    #[arg(long)]
    certificate: PathBuf,
    /// The server that it sends requests to
    #[arg(long)]
    server: SocketAddr,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let acceptor = TlsAcceptor::from(Arc::new(encryption(&options.certificate)?));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let plain = TcpListener::bind(options.http).await?;
        let encrypted = TcpListener::bind(options.https).await?;
        loop {
            let (socket, client, acceptor) = tokio::select! {
                accepted = plain.accept() => accepted.map(|(s, a)| (s, a, None)),
                accepted = encrypted.accept() => accepted.map(|(s, a)| (s, a, Some(acceptor.clone()))),
            }?;
            socket.set_nodelay(true)?;
            serve::spawn(socket, client, acceptor, options.server);
        }
    })
}

fn encryption(certificate: &PathBuf) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificate)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().context("make a ticketer")?;
    Ok(config)
}
