//! Sessions with something in front of the client's bytes: PROXY headers and TLS.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    bed::{Bed, SECOND, accept, backend, name, run, server, site},
    rest,
};
use crate::{
    model::{
        backend::{ProxyTlvs, SendProxy},
        frontend::{AcceptProxy, SniPattern},
        tls::{BindTls, CertificateSource, ServerTls, Tickets, TlsParameters, Verify},
    },
    proxy::{
        proxy_protocol,
        socket::Socket,
        tls::{encryption::Encryption, termination::Termination, testing::Authority},
    },
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);

fn bind(certificate: &Path) -> BindTls {
    BindTls {
        certificates: vec![CertificateSource::Path(certificate.to_owned())],
        alpn: vec!["x-test".into()],
        parameters: TlsParameters::default(),
        client_auth: None,
        tickets: Tickets { enabled: true, rotation: Duration::from_secs(3600) },
        strict_sni: false,
        handshake_timeout: SECOND,
        max_handshakes: 10,
    }
}

fn server_tls(ca: &Path, sni: &str) -> ServerTls {
    ServerTls {
        verify: Verify::Bundle(ca.to_owned()),
        sni: Some(sni.into()),
        client_certificate: None,
        parameters: TlsParameters::default(),
        handshake_timeout: SECOND,
    }
}

/// Both ends of TLS for one name.
struct Tls {
    _directory: tempfile::TempDir,
    termination: Arc<Termination>,
    encryption: Arc<Encryption>,
}

fn tls(authority: &Authority, name: &str) -> Tls {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("site.pem");
    authority.issue(&[name]).write(&certificate);
    let ca = authority.write(directory.path());
    let termination = Termination::load(bind(&certificate), None).unwrap().0;
    let encryption = Encryption::load(server_tls(&ca, name)).unwrap().0;
    Tls {
        _directory: directory,
        termination: Arc::new(termination),
        encryption: Arc::new(encryption),
    }
}

/// A TLS server that answers one connection with a text.
async fn answer(listener: &TcpListener, tls: &Tls, text: &[u8]) {
    let (mut stream, _) = tls.termination.accept(accept(listener).await).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// What a TLS client is told.
async fn ask(stream: TcpStream, tls: &Tls) -> String {
    let mut stream = tls
        .encryption
        .connect(stream, SocketAddr::new(LOOPBACK, 443).into(), &[b"x-test"])
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    stream.shutdown().await.unwrap();
    text
}

#[test]
fn tls_is_passed_through_to_the_backend_of_its_server_name() {
    run(async {
        let authority = Authority::new();
        let [a, b] = ["a.test", "x.b.test"].map(|name| tls(&authority, name));
        let (to_a, to_b) = (server().await, server().await);
        let wildcard = SniPattern::Wildcard(".b.test".into());
        let sni = [(wildcard, name("b"))];
        let backends = vec![backend("a", &[to_a.1]), backend("b", &[to_b.1])];
        let bed = Bed::start(site(backends, &sni)).await;

        let (told, ()) = tokio::join!(ask(bed.connect().await, &b), answer(&to_b.0, &b, b"from b"));
        assert_eq!(told, "from b");
        let record = bed.record().await;
        assert_eq!(record.sni.as_deref(), Some("x.b.test"));
        let (told, ()) = tokio::join!(ask(bed.connect().await, &a), answer(&to_a.0, &a, b"from a"));
        assert_eq!(told, "from a");
        bed.record().await;

        let mut plain = bed.connect().await;
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = rest(&mut plain).await;
        assert_eq!(bed.ending().await, ("CR".into(), "hello_not_tls"));
    });
}

#[test]
fn tls_ends_here_and_begins_again_towards_the_server() {
    run(async {
        let authority = Authority::new();
        let [outside, inside] = ["www.test", "inside.test"].map(|name| tls(&authority, name));
        let (listener, address) = server().await;
        let mut backend = backend("b", &[address]);
        backend.encryption = Some(Arc::clone(&inside.encryption));
        let mut site = site(vec![backend], &[]);
        site.termination = Some(Arc::clone(&outside.termination));
        let bed = Bed::start(site).await;
        let (told, ()) =
            tokio::join!(ask(bed.connect().await, &outside), answer(&listener, &inside, b"both"));
        assert_eq!(told, "both");
        let record = bed.record().await;
        assert_eq!(record.outcome.to_string(), "--");
        assert_eq!((record.is_tls, record.sni.as_deref()), (true, Some("www.test")));

        // A server whose certificate is not good is the server's fault.
        let _client = outside
            .encryption
            .connect(bed.connect().await, SocketAddr::new(LOOPBACK, 443).into(), &[])
            .await
            .unwrap();
        let record = loop {
            tokio::select! {
                record = bed.record() => break record,
                stream = accept(&listener) => {
                    outside.termination.accept(stream).await.unwrap_err();
                }
            }
        };
        assert_eq!(record.outcome.to_string(), "SC");
        assert_eq!(record.outcome.reason, "server_tls_bad_certificate");
    });
}

#[test]
fn the_server_is_told_who_the_client_is() {
    run(async {
        let tls = tls(&Authority::new(), "www.test");
        let (listener, address) = server().await;
        let mut backend = backend("b", &[address]);
        let tlvs =
            ProxyTlvs { authority: true, alpn: true, unique_id: true, tls: true, crc32c: true };
        backend.send_proxy = Some(SendProxy::V2(tlvs));
        let mut site = site(vec![backend], &[]);
        site.termination = Some(Arc::clone(&tls.termination));
        let bed = Bed::start(site).await;
        let client = bed.connect().await;
        let source = client.local_addr().unwrap();
        let serve = async {
            let mut socket = Socket::Tcp(accept(&listener).await);
            let header = proxy_protocol::read(&mut socket, SECOND).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            socket.shutdown().await.unwrap();
            header
        };
        let (told, header) = tokio::join!(ask(client, &tls), serve);
        assert_eq!(told, "hello");
        let addresses = header.addresses.unwrap();
        assert_eq!((addresses.source, addresses.destination), (source, bed.address));
        assert_eq!(header.authority.as_deref(), Some("www.test"));
        assert_eq!(header.alpn.as_deref(), Some(&b"x-test"[..]));
        assert!(header.is_tls);
        let id = bed.record().await.unique_id.unwrap();
        assert_eq!(header.unique_id.as_deref(), Some(id.as_bytes()));
    });
}

#[test]
fn sessions_count_before_they_are_introduced() {
    run(async {
        let (_listener, address) = server().await;
        let mut site = site(vec![backend("b", &[address])], &[]);
        site.accept_proxy =
            Some(AcceptProxy { sources: vec!["127.0.0.0/8".parse().unwrap()], timeout: SECOND });
        site.limits.total = 1;
        let bed = Bed::start(site).await;
        let _silent = bed.connect().await;
        // It may be reset before anybody can say that it was made.
        match TcpStream::connect(bed.address).await {
            Ok(mut further) => {
                assert_eq!(rest(&mut further).await.unwrap_err(), ErrorKind::ConnectionReset);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(bed.ending().await, ("PR".into(), "too_many_connections"));
    });
}

#[test]
fn only_listed_sources_introduce_clients_and_they_have_to() {
    run(async {
        let (listener, address) = server().await;
        let start = async |networks: &[&str]| {
            let mut site = site(vec![backend("b", &[address])], &[]);
            let sources = networks.iter().map(|network| network.parse().unwrap()).collect();
            site.accept_proxy = Some(AcceptProxy { sources, timeout: SECOND / 5 });
            Bed::start(site).await
        };
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

        let trusting = start(&["127.0.0.0/8"]).await;
        let mut client = trusting.connect().await;
        client.write_all(header).await.unwrap();
        client.write_all(b"data").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut accept(&listener).await).await.unwrap(), b"data");
        let record = trusting.record().await;
        assert_eq!(record.client.to_string(), "192.0.2.7:4711");
        assert_eq!(record.destination.to_string(), "198.51.100.1:443");

        let mut client = trusting.connect().await;
        client.write_all(b"data").await.unwrap();
        let _ = rest(&mut client).await;
        assert_eq!(trusting.ending().await, ("CR".into(), "proxy_header_missing"));
        let mut silent = trusting.connect().await;
        let _ = rest(&mut silent).await;
        assert_eq!(trusting.ending().await, ("cR".into(), "proxy_header_timeout"));

        // From elsewhere a header is nothing but a client's bytes.
        let wary = start(&["192.0.2.0/24"]).await;
        let mut client = wary.connect().await;
        client.write_all(header).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut accept(&listener).await).await.unwrap(), header);
        assert_eq!(wary.record().await.client, client.local_addr().unwrap());
    });
}
