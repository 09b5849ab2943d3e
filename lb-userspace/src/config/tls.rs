//! `tls` of bind addresses and of backends. Files are named here and not looked at: whether
//! they are good is for who reads them.

use std::{path::PathBuf, time::Duration};

use super::{
    datapath::absolute_path,
    decode::{Cursor, Entries},
    duration::Period,
    fault::{Refusal, did_you_mean, quoted},
    schema::{Bool, Choice, Integer, Key, List, ListItems, Nested, Presence, Section, Shape, Text},
};
use crate::model::tls::{
    BindTls, CertificatePair, CertificateSource, CipherSuite, ClientAuth, ServerTls, Tickets,
    TlsParameters, TlsVersion, Verify,
};

/// `bind[N].tls`.
pub(super) static BIND_TLS: Key<Nested<RawBindTls>> = Key {
    name: "tls",
    shape: Nested { section: &BIND_SECTION, decode: decode_bind },
    presence: Presence::Optional("no TLS here"),
    doc: "TLS ends here. Not with `mode: l4`.",
};

/// `backends.NAME.tls`.
pub(super) static SERVER_TLS: Key<ServerTlsShape> = Key {
    name: "tls",
    shape: ServerTlsShape,
    presence: Presence::Optional("servers are spoken to in the clear"),
    doc: "The proxy encrypts its connections to the servers. Layer-4 frontends pass on what \
          clients send and do not use it.",
};

static BIND_SECTION: Section = Section {
    path: "frontends.NAME.bind[N].tls",
    doc: "TLS that ends at this address. Files are read again when they change, without a reload \
          and without a connection dropped; a faulty change leaves the old ones in force and \
          is logged.",
    keys: &[
        &CERTIFICATES,
        &ALPN,
        &MIN_VERSION,
        &MAX_VERSION,
        &CIPHERS,
        &CLIENT_AUTH,
        &STRICT_SNI,
        &TICKETS,
        &TICKET_ROTATION,
        &HANDSHAKE_TIMEOUT,
        &MAX_HANDSHAKES,
    ],
    unbuilt: &[],
};

static CERTIFICATES: Key<Certificates> = Key {
    name: "certificates",
    shape: Certificates,
    presence: Presence::Required("certificates: /etc/pointsman/certs"),
    doc: "PEM files, or directories of them; a client gets the one for the server name it asks \
          for (exact before wildcard), or the very first. The key is in the same file, or \
          beside `site.pem` as `site.pem.key` or `site.key`; an OCSP response to staple, DER, \
          as `site.pem.ocsp` or `site.ocsp`. `{certificate: PATH, key: PATH, ocsp: PATH}` names \
          them one by one.",
};

static ALPN: Key<List<Text<String>>> = Key {
    name: "alpn",
    shape: List { item: Text { what: "a protocol's name", parse: protocol } },
    presence: Presence::Optional("`[h2, http/1.1]` with `mode: http`, else `[]`"),
    doc: "Protocols offered by ALPN, most wanted first. With `mode: tcp` what clients and \
          servers agree on is up to them.",
};

static MIN_VERSION: Key<Choice<TlsVersion>> = version("min_version", "\"1.2\"", "Lowest version.");
static MAX_VERSION: Key<Choice<TlsVersion>> = version("max_version", "\"1.3\"", "Highest version.");

const fn version(
    name: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Key<Choice<TlsVersion>> {
    let shape = Choice {
        words: &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)],
        unbuilt: &[],
        unbuilt_message: "",
    };
    Key { name, shape, presence: Presence::Default(default), doc }
}

static CIPHERS: Key<List<Text<CipherSuite>>> = Key {
    name: "ciphers",
    shape: List { item: Text { what: "a cipher suite", parse: cipher } },
    presence: Presence::Optional("all that are safe"),
    doc: "Cipher suites, most wanted first, under their IANA or OpenSSL names. Only suites with \
          forward secrecy and authenticated encryption exist.",
};

static CLIENT_AUTH: Key<Nested<ClientAuth>> = Key {
    name: "client_auth",
    shape: Nested { section: &CLIENT_AUTH_SECTION, decode: decode_client_auth },
    presence: Presence::Optional("clients are not asked for certificates"),
    doc: "Clients show certificates.",
};

static CLIENT_AUTH_SECTION: Section = Section {
    path: "frontends.NAME.bind[N].tls.client_auth",
    doc: "Certificates of clients. A bad one is refused whether or not one is required.",
    keys: &[&CLIENT_CA, &REQUIRED, &CRL],
    unbuilt: &[],
};

static CLIENT_CA: Key<Text<PathBuf>> = Key {
    name: "ca",
    shape: PATH,
    presence: Presence::Required("ca: /etc/pointsman/clients-ca.pem"),
    doc: "PEM bundle of the authorities that issue them.",
};

static REQUIRED: Key<Bool> = Key {
    name: "required",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "Clients without a certificate are refused.",
};

static CRL: Key<Text<PathBuf>> = Key {
    name: "crl",
    shape: PATH,
    presence: Presence::Optional("nothing is revoked"),
    doc: "PEM bundle of revocation lists. Every certificate of a client's chain below the \
          authority in `ca` has to be of an issuer that has a list here; clients of which that is \
          not so are refused. A list that has run out still revokes, with a warning in the log.",
};

static STRICT_SNI: Key<Bool> = Key {
    name: "strict_sni",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "Refuse clients whose server name no certificate has, and those that send none.",
};

static TICKETS: Key<Bool> = Key {
    name: "tickets",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "Sessions are resumed by tickets, by whichever worker. `false`: no session is resumed.",
};

static TICKET_ROTATION: Key<Period> = Key {
    name: "ticket_rotation",
    shape: Period { min: Duration::from_secs(60), max: Duration::from_secs(6 * 3600) },
    presence: Presence::Default("6h"),
    doc: "How long a key makes tickets; for as long again it opens them. Keys are in memory only \
          and go with the agent.",
};

static HANDSHAKE_TIMEOUT: Key<Period> = Key {
    name: "handshake_timeout",
    shape: Period { min: Duration::from_millis(10), max: Duration::from_secs(600) },
    presence: Presence::Default("10s"),
    doc: "Longest time a handshake may take.",
};

static MAX_HANDSHAKES: Key<Integer<u32>> = Key {
    name: "max_handshakes",
    shape: Integer { min: 1, max: 1_000_000 },
    presence: Presence::Default("1000"),
    doc: "Most handshakes under way at a time, over all workers, counted from the whole \
          ClientHello on. Others wait within their timeout.",
};

static SERVER_SECTION: Section = Section {
    path: "backends.NAME.tls",
    doc: "TLS with the servers. `tls: true` is `tls: {}`.",
    keys: &[
        &CA,
        &VERIFY,
        &SNI,
        &CLIENT_CERTIFICATE,
        &MIN_VERSION,
        &MAX_VERSION,
        &CIPHERS,
        &HANDSHAKE_TIMEOUT,
    ],
    unbuilt: &[],
};

static CA: Key<Text<PathBuf>> = Key {
    name: "ca",
    shape: PATH,
    presence: Presence::Optional("the authorities the operating system trusts"),
    doc: "PEM bundle of the authorities that issue the servers' certificates.",
};

static VERIFY: Key<Bool> = Key {
    name: "verify",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "`false` takes any certificate, with a warning: whoever is on the way to the servers can \
          read and change what is sent.",
};

static SNI: Key<Text<String>> = Key {
    name: "sni",
    shape: Text { what: "a server name", parse: server_name },
    presence: Presence::Optional(
        "none is sent, and the certificate must have the server's IP \
                                  address",
    ),
    doc: "Server name that is sent, and that the certificate must have.",
};

static CLIENT_CERTIFICATE: Key<CertificateShape> = Key {
    name: "client_certificate",
    shape: CertificateShape,
    presence: Presence::Optional("none"),
    doc: "Certificate shown to servers that ask for one: a PEM file, or \
          `{certificate: PATH, key: PATH}`.",
};

static PAIR_SECTION: Section = Section {
    path: "certificate",
    doc: "A certificate whose parts are named one by one.",
    keys: &[&PAIR_CERTIFICATE, &PAIR_KEY, &PAIR_OCSP],
    unbuilt: &[],
};

static PAIR_CERTIFICATE: Key<Text<PathBuf>> = Key {
    name: "certificate",
    shape: PATH,
    presence: Presence::Required("certificate: /etc/pointsman/site.crt"),
    doc: "PEM file with the chain, leaf first.",
};

static PAIR_KEY: Key<Text<PathBuf>> = Key {
    name: "key",
    shape: PATH,
    presence: Presence::Required("key: /etc/pointsman/site.key"),
    doc: "PEM file with the private key.",
};

static PAIR_OCSP: Key<Text<PathBuf>> = Key {
    name: "ocsp",
    shape: PATH,
    presence: Presence::Optional("beside the certificate, if there is one"),
    doc: "DER file with the OCSP response to staple.",
};

const PATH: Text<PathBuf> = Text { what: "an absolute path", parse: absolute_path };

/// One or more [`CertificateShape`]s.
struct Certificates;

impl Shape for Certificates {
    type Output = Vec<CertificateSource>;

    fn describe(&self) -> String {
        "absolute path, mapping, or list of both".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        match cursor.items() {
            Some(items) if items.is_empty() => {
                let refusal = Refusal::new("names no certificate");
                cursor.reject(refusal.hint("certificates: /etc/pointsman/certs"))
            }
            Some(items) => {
                let all: Vec<_> = items.iter().map(|item| CertificateShape.decode(item)).collect();
                all.into_iter().collect()
            }
            None => Some(vec![CertificateShape.decode(cursor)?]),
        }
    }
}

/// A path, or a mapping of paths.
struct CertificateShape;

impl Shape for CertificateShape {
    type Output = CertificateSource;

    fn describe(&self) -> String {
        "absolute path or mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<CertificateSource> {
        if !cursor.value.is_mapping() {
            return PATH.decode(cursor).map(CertificateSource::Path);
        }
        let entries = cursor.clone().entries(&PAIR_SECTION)?;
        let certificate = entries.get(&PAIR_CERTIFICATE);
        let key = entries.get(&PAIR_KEY);
        let ocsp = entries.get(&PAIR_OCSP);
        let pair = CertificatePair { certificate: certificate?, key: key?, ocsp };
        Some(CertificateSource::Pair(pair))
    }
}

/// A mapping, or `true` for one without keys, or `false` for none.
pub(super) struct ServerTlsShape;

impl Shape for ServerTlsShape {
    type Output = Option<ServerTls>;

    fn describe(&self) -> String {
        "mapping, `true` or `false`".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        match cursor.value.as_bool() {
            Some(false) => Some(None),
            Some(true) => decode_server(&cursor.clone().no_entries()).map(Some),
            None => decode_server(&cursor.clone().entries(&SERVER_SECTION)?).map(Some),
        }
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&SERVER_SECTION)
    }
}

/// `bind[N].tls` before it is known what the address is for.
#[derive(Clone, Debug)]
pub(super) struct RawBindTls {
    settings: BindTls,
    has_alpn: bool,
}

impl RawBindTls {
    /// Offers these protocols by ALPN, unless others are given.
    pub(super) fn offering(mut self, protocols: &[&str]) -> BindTls {
        if !self.has_alpn {
            self.settings.alpn = protocols.iter().map(|&protocol| protocol.to_owned()).collect();
        }
        self.settings
    }
}

fn decode_bind(entries: &Entries<'_>) -> Option<RawBindTls> {
    let certificates = entries.get(&CERTIFICATES);
    let has_alpn = entries.has(&ALPN);
    let alpn = entries.get(&ALPN).map_or((!has_alpn).then(Vec::new), whole);
    let parameters = parameters(entries);
    let client_auth = entries.optional(&CLIENT_AUTH);
    let strict_sni = entries.get(&STRICT_SNI);
    let enabled = entries.get(&TICKETS);
    let rotation = entries.get(&TICKET_ROTATION);
    let handshake_timeout = entries.get(&HANDSHAKE_TIMEOUT);
    let max_handshakes = entries.get(&MAX_HANDSHAKES);
    let settings = BindTls {
        certificates: certificates?,
        alpn: alpn?,
        parameters: parameters?,
        client_auth: client_auth?,
        tickets: Tickets { enabled: enabled?, rotation: rotation? },
        strict_sni: strict_sni?,
        handshake_timeout: handshake_timeout?,
        max_handshakes: max_handshakes?,
    };
    Some(RawBindTls { settings, has_alpn })
}

fn decode_client_auth(entries: &Entries<'_>) -> Option<ClientAuth> {
    let ca = entries.get(&CLIENT_CA);
    let required = entries.get(&REQUIRED);
    let crl = entries.optional(&CRL);
    Some(ClientAuth { ca: ca?, required: required?, crl: crl? })
}

fn decode_server(entries: &Entries<'_>) -> Option<ServerTls> {
    let ca = entries.optional(&CA);
    let verify = entries.get(&VERIFY);
    let sni = entries.optional(&SNI);
    let client_certificate = entries.optional(&CLIENT_CERTIFICATE);
    let parameters = parameters(entries);
    let handshake_timeout = entries.get(&HANDSHAKE_TIMEOUT);
    if verify == Some(false) {
        if entries.has(&CA) {
            let refusal = Refusal::new("contradicts `ca`, which would not be used");
            entries.reject(&VERIFY, refusal.hint("keep one of the two"));
        }
        let warning = Refusal::new(
            "servers are not verified: whoever is on the way to them can \
                                    read and change what is sent",
        );
        entries.warn(&VERIFY, warning.hint("name their authority in `ca`"));
    }
    let verify = match (verify?, ca?) {
        (false, _) => Verify::Off,
        (true, Some(ca)) => Verify::Bundle(ca),
        (true, None) => Verify::System,
    };
    Some(ServerTls {
        verify,
        sni: sni?,
        client_certificate: client_certificate?,
        parameters: parameters?,
        handshake_timeout: handshake_timeout?,
    })
}

/// Versions and suites that fit each other.
fn parameters(entries: &Entries<'_>) -> Option<TlsParameters> {
    let min_version = entries.get(&MIN_VERSION);
    let max_version = entries.get(&MAX_VERSION);
    let ciphers = entries.optional(&CIPHERS);
    let (min_version, max_version) = (min_version?, max_version?);
    if min_version > max_version {
        let refusal = Refusal::new("is higher than max_version");
        entries.reject(&MIN_VERSION, refusal.hint("keep one of the two"));
        return None;
    }
    let ciphers = match ciphers? {
        Some(read) => Some(whole(read)?),
        None => None,
    };
    for (version, name) in [(TlsVersion::V1_2, "1.2"), (TlsVersion::V1_3, "1.3")] {
        let is_spoken = (min_version..=max_version).contains(&version);
        let has_none =
            |ciphers: &Vec<CipherSuite>| !ciphers.iter().any(|cipher| cipher.version() == version);
        if is_spoken && ciphers.as_ref().is_some_and(has_none) {
            let refusal = Refusal::new(format!("has no suite of TLS {name}, which is spoken"));
            let hint = "add one, or narrow min_version and max_version";
            entries.reject(&CIPHERS, refusal.hint(hint));
            return None;
        }
    }
    Some(TlsParameters { min_version, max_version, ciphers })
}

/// The items of a list, if all of them are good.
pub(super) fn whole<T>(items: ListItems<T>) -> Option<Vec<T>> {
    items.into_iter().map(|item| item.value).collect()
}

fn protocol(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.len() > 255 || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let message = format!("{} is not a protocol's name", quoted(text));
        return Err(Refusal::new(message).hint("such as h2 or http/1.1"));
    }
    Ok(text.to_owned())
}

fn cipher(text: &str) -> Result<CipherSuite, Refusal> {
    CipherSuite::named(text).ok_or_else(|| {
        let refusal = Refusal::new(format!("{} is not a cipher suite", quoted(text)));
        let known = CipherSuite::ALL.iter().flat_map(|(_, iana, openssl)| [*iana, *openssl]);
        match did_you_mean(text, known) {
            Some(meant) => refusal.hint(format!("did you mean {}?", quoted(meant))),
            None => refusal.hint("such as TLS_AES_128_GCM_SHA256"),
        }
    })
}

/// A DNS name as it can stand in a ClientHello: no address, no final dot.
pub(super) fn server_name(text: &str) -> Result<String, Refusal> {
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    if text.len() > 253 || is_address || !text.split('.').all(label) {
        let message = format!("{} is not a server name", quoted(text));
        return Err(Refusal::new(message).hint("such as www.example.com"));
    }
    Ok(text.to_ascii_lowercase())
}
