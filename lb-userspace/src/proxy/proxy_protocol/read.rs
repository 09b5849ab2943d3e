//! Reading a header from a connection: in bounded time and bytes, and no byte more than
//! the header has, for what follows is the client's.

use std::{io, time::Duration};

use proxy_protocol_rs::{ParseError, TransportProtocol, V2_SIGNATURE};
use tokio::{io::AsyncReadExt, time::timeout};

use super::HeaderError;
use crate::proxy::socket::{Addresses, Socket};

/// Longest header that is taken, in bytes. The format allows 64 KiB, which nobody needs.
pub const MAX_BYTES: usize = 4096;
/// Longest line of version 1, its end included (section 2.1).
const V1_MAX: usize = 107;
/// Bytes of version 2 before the addresses: signature, command, family, length.
const V2_FIXED: usize = 16;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client and whom it connected to; none if the header says that it is the sender's
    /// own connection (`LOCAL`), or that the client is not of TCP: the connection's own
    /// addresses stand.
    pub addresses: Option<Addresses>,
    /// The host name the client asked for, by SNI for one. What a client wrote.
    pub authority: Option<String>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The sender's name for the connection, at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// The client used TLS towards the sender.
    pub is_tls: bool,
}

/// Reads the header at the beginning of a connection.
///
/// # Errors
/// [`HeaderError`]; the connection is of no more use.
///
/// # Cancel safety
/// None: a part of the header may be taken.
pub async fn read(socket: &mut Socket, after: Duration) -> Result<Header, HeaderError> {
    match timeout(after, take(socket)).await {
        Ok(bytes) => parse(&bytes?),
        Err(_elapsed) => Err(HeaderError::Timeout { after }),
    }
}

/// Takes the bytes of the header and no others: looks at what has come, then takes what is
/// part of the header for sure.
async fn take(socket: &mut Socket) -> Result<Vec<u8>, HeaderError> {
    let mut bytes = Vec::with_capacity(V1_MAX);
    let mut window = [0; 512];
    loop {
        let seen = socket.peek(&mut window).await.map_err(HeaderError::Gone)?;
        if seen == 0 {
            return Err(HeaderError::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        let taken = bytes.len();
        bytes.extend_from_slice(&window[..seen]);
        let length = length(&bytes)?;
        let end = length.unwrap_or(bytes.len()).min(bytes.len());
        bytes.truncate(end);
        socket.read_exact(&mut window[..end - taken]).await.map_err(HeaderError::Gone)?;
        if length == Some(end) {
            return Ok(bytes);
        }
    }
}

/// The length of the header that `bytes` begin with; none if that is not to be seen yet,
/// and then all of `bytes` are part of it.
fn length(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    let begins_like = |start: &[u8]| {
        let common = bytes.len().min(start.len());
        bytes[..common] == start[..common]
    };
    if begins_like(V2_SIGNATURE) {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(None) };
        let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if length > MAX_BYTES {
            return Err(HeaderError::TooLong { length });
        }
        return Ok(Some(length));
    }
    if begins_like(b"PROXY ") {
        let end = bytes.windows(2).take(V1_MAX - 1).position(|pair| pair == b"\r\n");
        return match end {
            Some(end) => Ok(Some(end + 2)),
            None if bytes.len() >= V1_MAX => Err(HeaderError::TooLong { length: bytes.len() }),
            None => Ok(None),
        };
    }
    Err(HeaderError::Missing)
}

/// Parses a whole header. Lengths of TLVs are checked, and their checksum if there is one.
///
/// # Errors
/// [`HeaderError`] if it is broken.
pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    if says_nothing(bytes)? {
        return Ok(Header::default());
    }
    let (info, length) = proxy_protocol_rs::parse(bytes).map_err(|error| match error {
        ParseError::NotProxyProtocol => HeaderError::Missing,
        error => HeaderError::Malformed(error.to_string()),
    })?;
    if length != bytes.len() {
        return Err(HeaderError::Malformed(format!("it ends after {length} bytes")));
    }
    if info.transport.is_some_and(|transport| transport.protocol != TransportProtocol::Stream) {
        return Err(HeaderError::NotStream);
    }
    let ends = info.source_inet().zip(info.destination_inet());
    // Nobody connects from there; it is what stands for a client of a unix socket.
    if ends.is_some_and(|(source, _)| source.ip().to_canonical().is_unspecified()) {
        return Err(HeaderError::Malformed("it names no client's address".into()));
    }
    Ok(Header {
        addresses: ends.map(|(source, destination)| Addresses { source, destination }),
        authority: info.tlvs.authority,
        alpn: info.tlvs.alpn,
        unique_id: info.tlvs.unique_id,
        is_tls: info
            .tlvs
            .ssl
            .is_some_and(|ssl| ssl.client_flags.contains(proxy_protocol_rs::SslClientFlags::SSL)),
    })
}

/// Whether a header of version 2 is about no client: the command `LOCAL`, whose rest is to
/// be skipped whatever it is, or an unspecified family (section 2.2).
fn says_nothing(bytes: &[u8]) -> Result<bool, HeaderError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(false) };
    if !bytes.starts_with(V2_SIGNATURE) {
        return Ok(false);
    }
    match (fixed[12], fixed[13] >> 4) {
        (0x20, _) | (0x21, 0) => Ok(true),
        (0x21, _) => Ok(false),
        (other, _) => Err(HeaderError::Malformed(format!("version and command are {other:#04x}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_protocol_rs::HeaderBuilder;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn builder() -> HeaderBuilder {
        let (source, destination) = ("192.0.2.7:4711", "198.51.100.1:443");
        HeaderBuilder::v2_proxy(source.parse().unwrap(), destination.parse().unwrap())
    }

    /// What is read from a connection that brings `pieces`, and what is left on it.
    async fn arrive(pieces: &[&[u8]]) -> (Result<Header, HeaderError>, Vec<u8>) {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut far = Socket::Unix(far);
        let send = async {
            for piece in pieces {
                near.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            near.shutdown().await.unwrap();
        };
        let (header, ()) = tokio::join!(read(&mut far, SECOND), send);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    fn source(header: &Result<Header, HeaderError>) -> String {
        match header {
            Ok(Header { addresses: Some(addresses), .. }) => addresses.source.to_string(),
            Ok(_) => "own".into(),
            Err(error) => error.reason().trim_start_matches("proxy_header_").into(),
        }
    }

    #[tokio::test]
    async fn what_follows_the_header_is_left_on_the_connection() {
        let v2 = builder().with_crc32c().build();
        for bytes in [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".as_slice(), &v2] {
            for cut in 1..bytes.len() {
                let (header, rest) =
                    arrive(&[&bytes[..cut], &bytes[cut..], b"GET / HTTP/1.1\r\n"]).await;
                assert_eq!(source(&header), "192.0.2.7:4711", "cut at {cut}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n", "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_table_of_headers() {
        let tampered = {
            let mut bytes = builder().with_crc32c().build();
            bytes[16] ^= 1;
            bytes
        };
        let overrun = {
            let mut bytes = builder().with_authority("a.test").build();
            let length_of_tlv = bytes.len() - 7;
            bytes[length_of_tlv] = 200;
            bytes
        };
        let mut oversized = V2_SIGNATURE.to_vec();
        oversized.extend([0x21, 0x11, 0xff, 0xff]);
        let local = HeaderBuilder::v2_local().build();
        let datagram = builder().with_transport_protocol(TransportProtocol::Datagram).build();
        let mut unspecified = V2_SIGNATURE.to_vec();
        unspecified.extend([0x21, 0, 0, 2, 0xff, 0xff]);
        let long_line = format!("PROXY TCP4 {}\r\n", "1".repeat(120));
        let table: [(&[u8], &str); 20] = [
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n", "[2001:db8::7]:1"),
            (b"PROXY UNKNOWN\r\n", "own"),
            (b"PROXY UNKNOWN anything at all\r\n", "own"),
            (&local, "own"),
            (&unspecified, "own"),
            (&builder().with_padding(300).with_padding(1000).build(), "192.0.2.7:4711"),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n", "malformed"),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", "malformed"),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 70000\r\n", "malformed"),
            (b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n", "malformed"),
            (b"PROXY TCP4 0.0.0.0 198.51.100.1 4711 443\r\n", "malformed"),
            (b"PROXY TCP6 :: 2001:db8::1 1 2\r\n", "malformed"),
            (b"PROXY TCP6 ::ffff:0.0.0.0 2001:db8::1 1 2\r\n", "malformed"),
            (b"PROXY SCTP4 192.0.2.7 198.51.100.1 1 2\r\n", "malformed"),
            (long_line.as_bytes(), "too_long"),
            (&tampered, "malformed"),
            (&overrun, "malformed"),
            (&oversized, "too_long"),
            (&datagram, "not_stream"),
            (b"GET / HTTP/1.1\r\nHost: PROXY \r\n\r\n", "missing"),
        ];
        for (bytes, expected) in table {
            let (header, _) = arrive(&[bytes]).await;
            assert_eq!(source(&header), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn a_sender_that_stops_is_not_waited_for() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut far = Socket::Unix(far);
        near.write_all(b"PROXY TCP4 1").await.unwrap();
        let error = read(&mut far, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.reason(), "proxy_header_timeout");
        assert_eq!(arrive(&[b"PROXY TCP4 1"]).await.0.unwrap_err().reason(), "proxy_header_gone");
        assert_eq!(arrive(&[]).await.0.unwrap_err().reason(), "proxy_header_gone");
    }

    #[test]
    fn tlvs_are_handed_on() {
        let bytes = builder().with_authority("a.test").with_alpn("h2").with_unique_id("x1").build();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.authority.as_deref(), Some("a.test"));
        assert_eq!(header.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(header.unique_id.as_deref(), Some(&b"x1"[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            if let Ok(Some(length)) = length(&bytes) {
                prop_assert!(length <= MAX_BYTES);
            }
        }

        #[test]
        fn a_damaged_header_is_read_or_refused(
            at in 0_usize..60,
            value: u8,
            cut in 0_usize..60,
        ) {
            let mut bytes =
                builder().with_authority("a.test").with_unique_id("x1").with_crc32c().build();
            let whole = bytes.clone();
            let at = at % bytes.len();
            bytes[at] = value;
            let length = (bytes.len() - cut % bytes.len()).max(at + 1);
            bytes.truncate(length);
            // In the length, and behind the addresses, the damage may hide the checksum itself.
            let is_covered = at < 28 && !(14..16).contains(&at) && bytes[at] != whole[at];
            match parse(&bytes) {
                // What is not about a client needs no checksum; everything else has one.
                Ok(header) if is_covered => prop_assert_eq!(header, Header::default()),
                Ok(header) => prop_assert_eq!(header.addresses, parse(&whole).unwrap().addresses),
                Err(_) => {}
            }
        }
    }
}
