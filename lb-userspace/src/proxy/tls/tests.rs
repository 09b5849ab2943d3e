//! Handshakes of both of our sides with each other, over pipes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time,
};

use super::{
    encryption::Encryption,
    error::{Blame, FileWarning, HandshakeError},
    facts::TlsFacts,
    termination::Termination,
    testing::{Authority, Issued, write_secret},
    watch::Reloadable,
};
use crate::model::tls::{
    BindTls, CertificateSource, ClientAuth, ServerTls, Tickets, TlsParameters, TlsVersion, Verify,
};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An authority, and a directory with a certificate for `www.example.com` and its bundle.
struct Place {
    authority: Authority,
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { authority: Authority::new(), directory: tempfile::tempdir().unwrap() };
        place.authority.issue(&["www.example.com"]).write(&place.path("site.pem"));
        place.authority.write(place.directory.path());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn bind(&self) -> BindTls {
        bind(&self.path("site.pem"))
    }

    fn server(&self) -> ServerTls {
        ServerTls {
            verify: Verify::Bundle(self.path("ca.crt")),
            sni: Some("www.example.com".into()),
            client_certificate: None,
            parameters: TlsParameters::default(),
            handshake_timeout: Duration::from_secs(5),
        }
    }

    fn required_client_auth(&self) -> Option<ClientAuth> {
        Some(ClientAuth { ca: self.path("ca.crt"), required: true, crl: None })
    }
}

fn bind(certificates: &Path) -> BindTls {
    BindTls {
        certificates: vec![CertificateSource::Path(certificates.to_owned())],
        alpn: vec!["h2".into(), "http/1.1".into()],
        parameters: TlsParameters::default(),
        client_auth: None,
        tickets: Tickets { enabled: true, rotation: Duration::from_secs(3600) },
        strict_sni: false,
        handshake_timeout: Duration::from_secs(5),
        max_handshakes: 100,
    }
}

fn terminate(settings: BindTls) -> Termination {
    Termination::load(settings, None).unwrap().0
}

fn encrypt(settings: ServerTls) -> Encryption {
    Encryption::load(settings).unwrap().0
}

/// Both sides of a handshake and one byte each way, which is what brings TLS 1.3 tickets and
/// late alerts across.
async fn meet(
    client: &Encryption,
    server: &Termination,
) -> (Result<(), HandshakeError>, Result<TlsFacts, HandshakeError>) {
    let (near, far) = duplex(16 << 10);
    let client_side = async {
        let mut stream =
            client.connect(near, std::net::SocketAddr::new(SERVER, 443).into(), &[b"h2"]).await?;
        stream.write_all(b"?").await?;
        stream.read_u8().await?;
        Ok(())
    };
    let server_side = async {
        let (mut stream, facts) = server.accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(facts)
    };
    tokio::join!(client_side, server_side)
}

async fn facts(client: &Encryption, server: &Termination) -> TlsFacts {
    let (client, server) = meet(client, server).await;
    client.unwrap();
    server.unwrap()
}

#[tokio::test]
async fn a_handshake_says_what_was_agreed() {
    let place = Place::new();
    let facts = facts(&encrypt(place.server()), &terminate(place.bind())).await;
    assert_eq!(facts.version, "TLSv1.3");
    assert_eq!(facts.sni.as_deref(), Some("www.example.com"));
    assert_eq!(facts.alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!((facts.resumed, facts.client), (false, None));
}

#[tokio::test]
async fn sessions_are_resumed_in_both_versions_and_not_without_tickets() {
    let place = Place::new();
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let parameters =
            TlsParameters { min_version: version, max_version: version, ciphers: None };
        let (client, server) = (place.server(), place.bind());
        let client = encrypt(ServerTls { parameters: parameters.clone(), ..client });
        let server = terminate(BindTls { parameters: parameters.clone(), ..server });
        assert!(!facts(&client, &server).await.resumed);
        assert!(facts(&client, &server).await.resumed, "{version:?}");
        server.reload().unwrap();
        assert!(facts(&client, &server).await.resumed, "keys live through a reload");

        let client = encrypt(ServerTls { parameters: parameters.clone(), ..place.server() });
        let tickets = Tickets { enabled: false, rotation: Duration::from_secs(3600) };
        let server = terminate(BindTls { parameters, tickets, ..place.bind() });
        for _ in 0..2 {
            assert!(!facts(&client, &server).await.resumed, "{version:?} without tickets");
        }
    }
}

#[tokio::test]
async fn a_ticket_of_one_bind_address_opens_no_other() {
    let place = Place::new();
    let client = encrypt(place.server());
    assert!(!facts(&client, &terminate(place.bind())).await.resumed);
    assert!(!facts(&client, &terminate(place.bind())).await.resumed);
}

#[tokio::test]
async fn a_session_does_not_outlive_the_bundle_its_client_was_verified_with() {
    let place = Place::new();
    place.authority.issue_client("alice", &["alice.test"]).write(&place.path("alice.pem"));
    let shown = CertificateSource::Path(place.path("alice.pem"));
    let client = encrypt(ServerTls { client_certificate: Some(shown), ..place.server() });
    let settings = BindTls { client_auth: place.required_client_auth(), ..place.bind() };
    let server = terminate(settings);
    let first = facts(&client, &server).await;
    assert_eq!(first.client.unwrap().common_name.as_deref(), Some("alice"));
    let second = facts(&client, &server).await;
    assert!(second.resumed);
    assert_eq!(second.client.unwrap().common_name.as_deref(), Some("alice"));

    fs::write(place.path("ca.crt"), Authority::new().pem()).unwrap();
    server.reload().unwrap();
    let refused = meet(&client, &server).await.1.unwrap_err();
    assert_eq!(
        (refused.client_reason(), refused.blame()),
        ("tls_bad_certificate", Blame::Peer),
        "{refused}"
    );
}

/// What a client comes to that shows a certificate where `lists` revoke.
async fn judged(place: &Place, shown: &Issued, lists: &str) -> Option<&'static str> {
    fs::write(place.path("lists.pem"), lists).unwrap();
    shown.write(&place.path("shown.pem"));
    let shown = CertificateSource::Path(place.path("shown.pem"));
    let client = encrypt(ServerTls { client_certificate: Some(shown), ..place.server() });
    let crl = Some(place.path("lists.pem"));
    let auth = ClientAuth { crl, ..place.required_client_auth().unwrap() };
    let server = terminate(BindTls { client_auth: Some(auth), ..place.bind() });
    meet(&client, &server).await.1.err().map(|error| error.client_reason())
}

#[tokio::test]
async fn clients_of_whom_nothing_is_on_record_are_refused_like_those_revoked() {
    let place = Place::new();
    let other = Authority::named("Other Authority");
    let bundle = place.authority.pem() + &other.pem();
    fs::write(place.path("ca.crt"), bundle).unwrap();
    let (good, bad) =
        (place.authority.issue_client("good", &[]), place.authority.issue_client("bad", &[]));
    let unlisted = other.issue_client("unlisted", &[]);
    let list = place.authority.revoke(&[&bad], 2999);
    let refused = Some("tls_bad_certificate");
    assert_eq!(judged(&place, &good, &list).await, None);
    assert_eq!(judged(&place, &bad, &list).await, refused);
    // Of its issuer there is no list; then there is.
    assert_eq!(judged(&place, &unlisted, &list).await, refused);
    assert_eq!(judged(&place, &unlisted, &(list + &other.revoke(&[], 2999))).await, None);
    // Somebody else's list of the same name revokes nothing, and lets nobody in.
    let forged = Authority::new().revoke(&[], 2999);
    assert_eq!(judged(&place, &good, &forged).await, Some("tls_internal"));
}

#[tokio::test]
async fn a_list_that_has_run_out_revokes_with_a_warning() {
    let place = Place::new();
    let (good, bad) =
        (place.authority.issue_client("good", &[]), place.authority.issue_client("bad", &[]));
    let list = place.authority.revoke(&[&bad], 2025);
    assert_eq!(judged(&place, &good, &list).await, None);
    assert_eq!(judged(&place, &bad, &list).await, Some("tls_bad_certificate"));
    let crl = Some(place.path("lists.pem"));
    let auth = ClientAuth { crl, ..place.required_client_auth().unwrap() };
    let settings = BindTls { client_auth: Some(auth), ..place.bind() };
    let (_, warnings) = Termination::load(settings, None).unwrap();
    let text = warnings.iter().map(ToString::to_string).collect::<String>();
    assert!(text.contains("lists.pem ran out at "), "{text}");
}

#[tokio::test]
async fn a_session_is_not_resumed_once_its_client_s_certificate_has_run_out() {
    let place = Place::new();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let end = now + 3;
    place.authority.issue_client_until("alice", end).write(&place.path("alice.pem"));
    let shown = CertificateSource::Path(place.path("alice.pem"));
    let client = encrypt(ServerTls { client_certificate: Some(shown), ..place.server() });
    let settings = BindTls { client_auth: place.required_client_auth(), ..place.bind() };
    let server = terminate(settings);
    assert!(!facts(&client, &server).await.resumed);
    assert!(facts(&client, &server).await.resumed);
    while std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() <= end {
        time::sleep(Duration::from_millis(100)).await;
    }
    let refused = meet(&client, &server).await.1.unwrap_err();
    assert_eq!(refused.client_reason(), "tls_bad_certificate", "{refused}");
}

#[tokio::test]
async fn clients_are_refused_without_a_good_certificate() {
    let place = Place::new();
    let required = BindTls { client_auth: place.required_client_auth(), ..place.bind() };
    let required = terminate(required);
    let anonymous = encrypt(place.server());
    let refused = meet(&anonymous, &required).await.1.unwrap_err();
    assert_eq!(refused.client_reason(), "tls_no_certificate", "{refused}");

    let optional = ClientAuth { required: false, ..place.required_client_auth().unwrap() };
    let optional = terminate(BindTls { client_auth: Some(optional), ..place.bind() });
    assert_eq!(facts(&anonymous, &optional).await.client, None);

    Authority::new().issue_client("mallory", &["m.test"]).write(&place.path("mallory.pem"));
    let shown = CertificateSource::Path(place.path("mallory.pem"));
    let stranger = encrypt(ServerTls { client_certificate: Some(shown), ..place.server() });
    for server in [&required, &optional] {
        let refused = meet(&stranger, server).await.1.unwrap_err();
        assert_eq!(refused.client_reason(), "tls_bad_certificate", "{refused}");
    }
}

#[tokio::test]
async fn servers_are_verified_unless_that_is_turned_off() {
    let place = Place::new();
    let check = async |client: ServerTls, server: &Path, expected: Option<&str>| {
        let (outcome, _) = meet(&encrypt(client), &terminate(bind(server))).await;
        assert_eq!(outcome.err().map(|error| error.client_reason()), expected);
    };
    let good = place.path("site.pem");
    let stranger = place.path("stranger.pem");
    Authority::new().issue(&["www.example.com"]).write(&stranger);
    let expired = place.path("expired.pem");
    place.authority.issue_expired(&["www.example.com"]).write(&expired);
    let by_address = place.path("address.pem");
    place.authority.issue(&["127.0.0.1"]).write(&by_address);

    check(place.server(), &good, None).await;
    check(place.server(), &stranger, Some("tls_bad_certificate")).await;
    check(place.server(), &expired, Some("tls_bad_certificate")).await;
    let other_name = ServerTls { sni: Some("api.example.com".into()), ..place.server() };
    check(other_name, &good, Some("tls_bad_certificate")).await;
    let no_name = ServerTls { sni: None, ..place.server() };
    check(no_name.clone(), &good, Some("tls_bad_certificate")).await;
    check(no_name, &by_address, None).await;
    let unverified = ServerTls { verify: Verify::Off, ..place.server() };
    check(unverified.clone(), &stranger, None).await;
    check(unverified.clone(), &expired, None).await;
    let (_, warnings) = Encryption::load(unverified).unwrap();
    assert_eq!(warnings, [FileWarning::NotVerified]);
}

#[tokio::test]
async fn versions_that_do_not_meet_are_nobody_elses_fault() {
    let place = Place::new();
    let only =
        |version| TlsParameters { min_version: version, max_version: version, ciphers: None };
    let client = encrypt(ServerTls { parameters: only(TlsVersion::V1_2), ..place.server() });
    let server = terminate(BindTls { parameters: only(TlsVersion::V1_3), ..place.bind() });
    let (client, server) = meet(&client, &server).await;
    assert_eq!(server.unwrap_err().client_reason(), "tls_incompatible");
    assert_eq!(client.unwrap_err().client_reason(), "tls_alert");
}

#[tokio::test]
async fn strict_names_refuse_what_no_certificate_is_for() {
    let place = Place::new();
    let strict = terminate(BindTls { strict_sni: true, ..place.bind() });
    facts(&encrypt(place.server()), &strict).await;
    let other = ServerTls { sni: Some("other.test".into()), ..place.server() };
    let refused = meet(&encrypt(other), &strict).await.1.unwrap_err();
    assert_eq!((refused.client_reason(), refused.blame()), ("tls_unknown_name", Blame::Peer));
}

#[tokio::test]
async fn a_reload_takes_new_connections_over_and_leaves_old_ones() {
    let place = Place::new();
    let server = terminate(place.bind());
    let client = encrypt(ServerTls { verify: Verify::Off, sni: None, ..place.server() });
    let (near, far) = duplex(16 << 10);
    let (old_client, old_server) = tokio::join!(
        client.connect(near, std::net::SocketAddr::new(SERVER, 443).into(), &[]),
        server.accept(far)
    );
    let (mut old_client, (mut old_server, _)) = (old_client.unwrap(), old_server.unwrap());

    place.authority.issue(&["new.test"]).write(&place.path("site.pem"));
    server.reload().unwrap();
    let renamed = encrypt(ServerTls { sni: Some("new.test".into()), ..place.server() });
    facts(&renamed, &server).await;

    old_client.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    old_server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");
}

#[tokio::test]
async fn a_faulty_reload_leaves_what_was_in_force_and_says_why() {
    let place = Place::new();
    let server = terminate(place.bind());
    let client = encrypt(place.server());
    let other_key = Authority::new().issue(&["www.example.com"]).key.serialize_pem();
    let certificate = place.authority.issue(&["www.example.com"]).certificate_pem;
    let faults = [
        ("", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "is not good PEM"),
        (certificate.as_str(), "no private key for"),
        (&format!("{certificate}{other_key}"), "and its key can not be used"),
    ];
    for (text, expected) in faults {
        write_secret(&place.path("site.pem"), text);
        let message = server.reload().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        facts(&client, &server).await;
    }
}

#[test]
fn every_fault_of_the_files_is_reported_at_once() {
    let place = Place::new();
    write_secret(&place.path("broken.pem"), "-----BEGIN CERTIFICATE-----\n");
    fs::write(place.path("empty.crt"), "").unwrap();
    let missing = ClientAuth { ca: place.path("nothing"), required: true, crl: None };
    let settings = BindTls { client_auth: Some(missing), ..bind(place.directory.path()) };
    let errors = Termination::load(settings, None).unwrap_err();
    // The bundle of the authority has no key beside it either.
    assert_eq!(errors.0.len(), 4, "{errors}");
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let place = Place::new();
    let path = place.path("site.pem");
    let warnings = || Termination::load(place.bind(), None).unwrap().1;
    assert_eq!(warnings(), []);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(warnings(), [FileWarning::KeyReadable { path, mode: 0o640 }]);
}

#[test]
fn an_expired_certificate_is_served_with_a_warning() {
    let place = Place::new();
    place.authority.issue_expired(&["www.example.com"]).write(&place.path("site.pem"));
    let (_, warnings) = Termination::load(place.bind(), None).unwrap();
    assert!(warnings[0].to_string().contains("expired at"), "{warnings:?}");
}

/// A client that sends `bytes` and then nothing.
async fn stalled(bytes: &[u8]) -> (DuplexStream, DuplexStream) {
    let (mut near, far) = duplex(64 << 10);
    near.write_all(bytes).await.unwrap();
    (near, far)
}

#[tokio::test]
async fn clients_that_stall_or_talk_nonsense_are_told_apart() {
    let place = Place::new();
    let quick = Duration::from_millis(50);
    let server = terminate(BindTls { handshake_timeout: quick, ..place.bind() });
    let cases: [(&[u8], &str); 4] = [
        (b"", "tls_timeout"),
        (b"\x16\x03\x01", "tls_timeout"),
        (b"GET / HTTP/1.1\r\n\r\n", "tls_protocol"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "tls_protocol"),
    ];
    for (bytes, expected) in cases {
        let (_near, far) = stalled(bytes).await;
        let error = server.accept(far).await.unwrap_err();
        assert_eq!(error.client_reason(), expected, "{bytes:?}: {error}");
    }
    let (near, far) = stalled(b"").await;
    drop(near);
    assert_eq!(server.accept(far).await.unwrap_err().client_reason(), "tls_gone");
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_for_room_and_then_give_up() {
    let place = Place::new();
    // Long enough that a busy machine keeps the order of what follows.
    let quick = Duration::from_secs(2);
    let settings = BindTls { handshake_timeout: quick, max_handshakes: 1, ..place.bind() };
    let server = terminate(settings);
    // A client whose hello arrives and whose answer never does.
    let client = encrypt(place.server());
    let (near, mut caught) = duplex(64 << 10);
    let hello = tokio::select! {
        _ = client.connect(near, std::net::SocketAddr::new(SERVER, 443).into(), &[]) => unreachable!("nobody answers"),
        hello = async {
            let mut bytes = vec![0; 16 << 10];
            let length = caught.read(&mut bytes).await.unwrap();
            bytes.truncate(length);
            bytes
        } => hello,
    };
    // The second begins first and gets to the end of its hello when there is no room, so
    // that its time is up while the first still has some.
    let (start, end) = hello.split_at(20);
    let (mut late, second) = stalled(start).await;
    let first = async {
        time::sleep(quick / 2).await;
        let (_first, first) = stalled(&hello).await;
        let finish = async {
            time::sleep(quick / 10).await;
            late.write_all(end).await.unwrap();
        };
        tokio::join!(server.accept(first), finish).0
    };
    let (second, first) = tokio::join!(server.accept(second), first);
    assert_eq!(first.unwrap_err().client_reason(), "tls_timeout");
    let busy = second.unwrap_err();
    assert_eq!((busy.client_reason(), busy.blame()), ("tls_busy", Blame::Limit));
    facts(&client, &server).await;
}
