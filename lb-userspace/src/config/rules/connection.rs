//! The keys of `if` that look at the connection: addresses, ports, TLS.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    super::{
        decode::Entries,
        fault::{Refusal, quoted},
        schema::{Bool, Integer, Key, KeyInfo, Nested, Presence, Section, Text},
    },
    condition::{Parts, RawCondition},
    file::NetworkFile,
    request::{host, host_regex, host_suffix, host_wildcard, regex, texts},
    shape::{OneOf, all},
};
use crate::model::rule::{
    condition::Test, host::HostPattern, networks::Networks, template::CertificateField,
    text::TextPattern,
};

type Texts<T> = OneOf<Text<T>>;

const NOT_LOOKED_AT: Presence = Presence::Optional("any");

pub(super) static SOURCE: Key<Texts<IpNet>> = texts(
    "source",
    "a network or an address",
    network,
    "The client's address is in the network: `10.0.0.0/8`, `192.0.2.7`, `\"2001:db8::/32\"`.",
);

pub(super) static SOURCE_FILE: Key<OneOf<NetworkFile>> = Key {
    name: "source_file",
    shape: OneOf { item: NetworkFile },
    presence: NOT_LOOKED_AT,
    doc: "As `source`, with the networks in a file: one a line, `#` starts a comment. It is \
          read with the configuration. Together with `source`, one of the two is enough.",
};

pub(super) static DESTINATION_PORT: Key<OneOf<Integer<u16>>> = Key {
    name: "destination_port",
    shape: OneOf { item: Integer { min: 1, max: u16::MAX } },
    presence: NOT_LOOKED_AT,
    doc: "The port that the client connected to.",
};

pub(super) static TLS: Key<Bool> = Key {
    name: "tls",
    shape: Bool,
    presence: NOT_LOOKED_AT,
    doc: "The client's connection is TLS, or it is not.",
};

pub(super) static SNI: Key<Texts<HostPattern>> = texts(
    "sni",
    "a host name",
    host,
    "The server name of the TLS handshake is exactly this. Behind TLS, `host` may name \
     another one.",
);
pub(super) static SNI_SUFFIX: Key<Texts<HostPattern>> =
    texts("sni_suffix", "a host name", host_suffix, "As `host_suffix` for the server name.");
pub(super) static SNI_WILDCARD: Key<Texts<HostPattern>> = texts(
    "sni_wildcard",
    "a host name with `*`",
    host_wildcard,
    "As `host_wildcard` for the server name.",
);
pub(super) static SNI_REGEX: Key<Texts<HostPattern>> =
    texts("sni_regex", "a regular expression", host_regex, "As `host_regex` for the server name.");

pub(super) static CLIENT_CERTIFICATE: Key<Nested<RawCondition>> = Key {
    name: "client_certificate",
    shape: Nested { section: &CERTIFICATE_SECTION, decode: decode_certificate },
    presence: NOT_LOOKED_AT,
    doc: "What the client's certificate says, which was verified in the TLS handshake.",
};

static CERTIFICATE_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if.client_certificate",
    doc: "What the client's verified certificate says; all keys that are given must hold. A \
          client without one has no fields.",
    keys: &[
        &PRESENT,
        &COMMON_NAME,
        &COMMON_NAME_REGEX,
        &SUBJECT,
        &SUBJECT_REGEX,
        &ISSUER,
        &DNS_NAME,
        &DNS_NAME_REGEX,
        &SERIAL,
        &FINGERPRINT,
    ],
    unbuilt: &[],
};

static PRESENT: Key<Bool> = Key {
    name: "present",
    shape: Bool,
    presence: NOT_LOOKED_AT,
    doc: "The client has shown a certificate that was verified, or it has not.",
};

const fn exact(name: &'static str, doc: &'static str) -> Key<Texts<TextPattern>> {
    texts(name, "a text", |text| Ok(TextPattern::Exact(text.into())), doc)
}

const fn matching(name: &'static str, doc: &'static str) -> Key<Texts<TextPattern>> {
    texts(name, "a regular expression", |text| regex(text).map(TextPattern::Regex), doc)
}

static COMMON_NAME: Key<Texts<TextPattern>> =
    exact("common_name", "The common name of the subject.");
static COMMON_NAME_REGEX: Key<Texts<TextPattern>> =
    matching("common_name_regex", "The expression matches in the common name.");
static SUBJECT: Key<Texts<TextPattern>> =
    exact("subject", "The whole subject: `CN=alice, O=Example`.");
static SUBJECT_REGEX: Key<Texts<TextPattern>> =
    matching("subject_regex", "The expression matches in the subject.");
static ISSUER: Key<Texts<TextPattern>> = exact("issuer", "The whole issuer.");
static DNS_NAME: Key<Texts<TextPattern>> =
    exact("dns_name", "One of the DNS names among the alternative names.");
static DNS_NAME_REGEX: Key<Texts<TextPattern>> =
    matching("dns_name_regex", "The expression matches in one of the DNS names.");
static SERIAL: Key<Texts<TextPattern>> =
    exact("serial", "The serial number in lower-case hexadecimal digits.");
static FINGERPRINT: Key<Texts<TextPattern>> = exact(
    "fingerprint",
    "SHA-256 of the certificate in 64 lower-case hexadecimal digits, without colons.",
);

pub(super) fn decode(parts: &mut Parts<'_, '_>) {
    decode_source(parts);
    parts.test(&DESTINATION_PORT, |list| all(list).map(Test::DestinationPort));
    parts.test(&TLS, |wanted| Some(Test::Tls(wanted)));
    for key in [&SNI, &SNI_SUFFIX, &SNI_WILDCARD, &SNI_REGEX] {
        parts.test(key, |list| all(list).map(Test::Sni));
    }
    parts.add(&CLIENT_CERTIFICATE, |condition| condition);
}

/// `source` and `source_file` are one list of networks.
fn decode_source(parts: &mut Parts<'_, '_>) {
    let (source, file): (&dyn KeyInfo, &dyn KeyInfo) = (&SOURCE, &SOURCE_FILE);
    if !parts.entries.has(source) && !parts.entries.has(file) {
        return;
    }
    let given = |has: bool, list: Option<Vec<IpNet>>| if has { list } else { Some(Vec::new()) };
    let listed = parts.entries.get(&SOURCE).and_then(all);
    let listed = given(parts.entries.has(source), listed);
    let read = parts.entries.get(&SOURCE_FILE).and_then(all);
    let read = given(parts.entries.has(file), read.map(|files| files.concat()));
    parts.push(match (listed, read) {
        (Some(listed), Some(read)) => {
            let networks = Networks::new(listed.into_iter().chain(read));
            RawCondition::Test(Test::Source(Arc::new(networks)))
        }
        _ => RawCondition::Broken,
    });
}

fn decode_certificate(entries: &Entries<'_>) -> Option<RawCondition> {
    let mut parts = Parts::new(entries);
    parts.test(&PRESENT, |wanted| Some(Test::HasCertificate(wanted)));
    for (key, field) in [
        (&COMMON_NAME, CertificateField::CommonName),
        (&COMMON_NAME_REGEX, CertificateField::CommonName),
        (&SUBJECT, CertificateField::Subject),
        (&SUBJECT_REGEX, CertificateField::Subject),
        (&ISSUER, CertificateField::Issuer),
        (&DNS_NAME, CertificateField::DnsName),
        (&DNS_NAME_REGEX, CertificateField::DnsName),
        (&SERIAL, CertificateField::Serial),
        (&FINGERPRINT, CertificateField::Fingerprint),
    ] {
        parts.test(key, |list| Some(Test::Certificate(field, all(list)?)));
    }
    Some(parts.finish())
}

/// A network, or an address that stands for itself alone.
pub(in crate::config) fn network(text: &str) -> Result<IpNet, Refusal> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.into());
    }
    let Ok(network) = text.parse::<IpNet>() else {
        let message = format!("{} is not a network", quoted(text));
        return Err(Refusal::new(message).hint("such as 10.0.0.0/8 or \"2001:db8::/32\""));
    };
    if network.addr() != network.network() {
        let message = format!("{} has bits behind its prefix", quoted(text));
        return Err(Refusal::new(message).hint(format!("write {}", network.trunc())));
    }
    Ok(network)
}
