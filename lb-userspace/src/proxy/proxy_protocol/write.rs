//! Writing a header in front of a connection to a server.

use proxy_protocol_rs::{HeaderBuilder, SslClientFlags, SslInfo};

use crate::{
    model::backend::{ProxyTlvs, SendProxy},
    proxy::{socket::Addresses, tls::facts::TlsFacts},
};

/// Longest unique id, in bytes (section 2.2.5).
const MAX_UNIQUE_ID: usize = 128;

/// What is known of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client, and whom it connected to.
    pub addresses: Addresses,
    /// The server name the client asked for, if TLS was not terminated.
    pub sni: Option<&'a str>,
    /// What was agreed with the client, if TLS was terminated.
    pub tls: Option<&'a TlsFacts>,
    /// The name of the connection.
    pub unique_id: Option<&'a str>,
}

/// The bytes of a header. A client without addresses, of a unix socket, is announced as
/// unknown, or in version 2 as the proxy's own connection: the server takes the addresses
/// it sees.
#[must_use]
pub fn encode(version: SendProxy, facts: &Facts<'_>) -> Vec<u8> {
    let Addresses { source, destination } = facts.addresses;
    match (version, facts.addresses.are_known()) {
        (SendProxy::V1, true) => HeaderBuilder::v1_proxy(source, destination).build(),
        (SendProxy::V1, false) => HeaderBuilder::v1_unknown().build(),
        (SendProxy::V2(_), false) => HeaderBuilder::v2_local().build(),
        (SendProxy::V2(tlvs), true) => {
            with_tlvs(HeaderBuilder::v2_proxy(source, destination), tlvs, facts).build()
        }
    }
}

fn with_tlvs(mut header: HeaderBuilder, tlvs: ProxyTlvs, facts: &Facts<'_>) -> HeaderBuilder {
    let tls = facts.tls;
    let sni = tls.and_then(|tls| tls.sni.as_deref()).or(facts.sni);
    if let Some(sni) = sni.filter(|_| tlvs.authority) {
        header = header.with_authority(sni);
    }
    if let Some(alpn) = tls.and_then(|tls| tls.alpn.as_deref()).filter(|_| tlvs.alpn) {
        header = header.with_alpn(alpn);
    }
    if let Some(id) = facts.unique_id.filter(|id| tlvs.unique_id && id.len() <= MAX_UNIQUE_ID) {
        header = header.with_unique_id(id);
    }
    if let Some(tls) = tls.filter(|_| tlvs.tls) {
        header = header.with_ssl(ssl(tls));
    }
    if tlvs.crc32c { header.with_crc32c() } else { header }
}

fn ssl(tls: &TlsFacts) -> SslInfo {
    let mut client_flags = SslClientFlags::SSL;
    if tls.client.is_some() {
        client_flags |= SslClientFlags::CERT_SESS;
        if !tls.resumed {
            client_flags |= SslClientFlags::CERT_CONN;
        }
    }
    SslInfo {
        client_flags,
        // A certificate that is not good ends the handshake.
        verified: true,
        version: Some(tls.version.into()),
        cipher: Some(tls.cipher.into()),
        cn: tls.client.as_ref().and_then(|client| client.common_name.clone()),
        ..SslInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    const ALL: ProxyTlvs =
        ProxyTlvs { authority: true, alpn: true, unique_id: true, tls: true, crc32c: true };

    fn addresses(source: &str, destination: &str) -> Addresses {
        let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
        Addresses { source, destination }
    }

    fn tls() -> TlsFacts {
        TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sni: Some("a.test".into()),
            alpn: Some(b"h2".as_slice().into()),
            resumed: false,
            client: None,
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let tls = tls();
        for addresses in [
            addresses("192.0.2.7:4711", "198.51.100.1:443"),
            addresses("[2001:db8::7]:4711", "[2001:db8::1]:443"),
        ] {
            let facts = Facts { addresses, sni: None, tls: Some(&tls), unique_id: Some("c0ffee") };
            for version in [SendProxy::V1, SendProxy::V2(ProxyTlvs::default()), SendProxy::V2(ALL)]
            {
                let header = parse(&encode(version, &facts)).unwrap();
                assert_eq!(header.addresses, Some(addresses), "{version:?}");
                let told = version == SendProxy::V2(ALL);
                assert_eq!(header.authority.is_some(), told);
                assert_eq!(header.alpn.is_some(), told);
                assert_eq!(header.unique_id.as_deref(), told.then_some(&b"c0ffee"[..]));
                assert_eq!(header.is_tls, told);
            }
        }
    }

    #[test]
    fn a_client_without_an_address_is_announced_as_unknown() {
        let facts = Facts { addresses: Addresses::NONE, sni: None, tls: None, unique_id: None };
        assert_eq!(encode(SendProxy::V1, &facts), b"PROXY UNKNOWN\r\n");
        let header = parse(&encode(SendProxy::V2(ALL), &facts)).unwrap();
        assert_eq!(header, Default::default());
        let mixed = addresses("192.0.2.7:4711", "[2001:db8::1]:443");
        assert_eq!(
            encode(SendProxy::V1, &Facts { addresses: mixed, ..facts }),
            b"PROXY UNKNOWN\r\n"
        );
    }
}
