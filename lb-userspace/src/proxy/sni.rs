//! The server name in a ClientHello, for routing TLS that is passed through. rustls parses
//! the hello; here it is collected in bounded bytes and time, and kept to be passed on.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// Longest ClientHello that is collected, in bytes; the largest real ones, with
/// post-quantum key shares and a resumption ticket, take a quarter.
const MAX_BYTES: usize = 16 << 10;

/// What a connection began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Everything that was taken from the connection; to be passed on first.
    pub bytes: Vec<u8>,
    /// The name the client asked for, lower case; none if it asked for none.
    pub name: Option<String>,
    /// The protocols the client offers by ALPN.
    pub alpn: Vec<Vec<u8>>,
}

/// Why there is no hello. The client is to blame.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// It did not arrive in time.
    #[error("no whole ClientHello within {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The client hung up before its end.
    #[error("the client hung up within its ClientHello")]
    Gone(#[source] io::Error),
    /// It is longer than any good one.
    #[error("the ClientHello is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is something else.
    #[error("the connection does not begin with a ClientHello: {0}")]
    NotTls(rustls::Error),
}

impl HelloError {
    /// A short word for logs and counters, stable.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "hello_timeout",
            Self::Gone(_) => "hello_gone",
            Self::TooLong => "hello_too_long",
            Self::NotTls(_) => "hello_not_tls",
        }
    }
}

/// Takes the ClientHello, and what may have come behind it, from a connection.
///
/// # Errors
/// [`HelloError`]; the connection is of no more use.
///
/// # Cancel safety
/// None: a part of the hello may be taken.
pub async fn read<S>(stream: &mut S, after: Duration) -> Result<Hello, HelloError>
where
    S: AsyncRead + Unpin,
{
    match timeout(after, collect(stream)).await {
        Ok(hello) => hello,
        Err(_elapsed) => Err(HelloError::Timeout { after }),
    }
}

async fn collect<S>(stream: &mut S) -> Result<Hello, HelloError>
where
    S: AsyncRead + Unpin,
{
    let mut parser = Parser::default();
    let mut piece = [0; 2048];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => return Err(HelloError::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => {
                if let Some(hello) = parser.feed(&piece[..length])? {
                    return Ok(hello);
                }
            }
            Err(error) => return Err(HelloError::Gone(error)),
        }
    }
}

/// Collects a hello piece by piece; no I/O.
#[derive(Default)]
struct Parser {
    acceptor: Acceptor,
    bytes: Vec<u8>,
}

impl Parser {
    /// The hello, once it is whole.
    fn feed(&mut self, piece: &[u8]) -> Result<Option<Hello>, HelloError> {
        self.bytes.extend_from_slice(piece);
        let mut unread = piece;
        while !unread.is_empty() {
            // It takes what its buffer has room for, and refuses hellos that are too long.
            self.acceptor.read_tls(&mut unread).map_err(|_full| HelloError::TooLong)?;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec);
                    return Ok(Some(Hello {
                        name: hello.server_name().map(str::to_ascii_lowercase),
                        alpn: alpn.collect(),
                        bytes: std::mem::take(&mut self.bytes),
                    }));
                }
                Ok(None) => {}
                Err((error, _alert)) => return Err(HelloError::NotTls(error)),
            }
        }
        if self.bytes.len() > MAX_BYTES { Err(HelloError::TooLong) } else { Ok(None) }
    }
}

/// The first byte says how the others are cut, which must make no difference.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let read = |size: usize| {
        let mut parser = Parser::default();
        let mut pieces = bytes.chunks(size);
        let outcome = pieces.find_map(|piece| parser.feed(piece).transpose());
        outcome.map(|outcome| {
            outcome.map(|hello| (hello.name, hello.alpn)).map_err(|why| why.reason())
        })
    };
    assert_eq!(read(usize::from(size).max(1)), read(2048));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName,
    };

    use super::*;

    /// The hello a client sends.
    fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_is_read_however_it_is_cut_and_kept_whole() {
        let mut bytes = hello("WWW.example.com", &[b"h2", b"http/1.1"]);
        let end = bytes.len();
        bytes.extend_from_slice(b"more");
        for cut in 1..end {
            let mut parser = Parser::default();
            assert_eq!(parser.feed(&bytes[..cut]).unwrap(), None, "cut at {cut}");
            let hello = parser.feed(&bytes[cut..]).unwrap().unwrap();
            assert_eq!(hello.name.as_deref(), Some("www.example.com"));
            assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
            assert_eq!(hello.bytes, bytes);
        }
    }

    #[test]
    fn a_client_may_ask_for_no_name() {
        let hello = Parser::default().feed(&hello("127.0.0.1", &[])).unwrap().unwrap();
        assert_eq!((hello.name, hello.alpn.len()), (None, 0));
    }

    fn check(bytes: &[u8], expected: &str) {
        let mut parser = Parser::default();
        let outcome = bytes.chunks(2048).find_map(|piece| parser.feed(piece).transpose());
        let name = outcome.map(|outcome| outcome.unwrap_err().reason());
        assert_eq!(name.unwrap_or("more"), expected, "{:?}", &bytes[..bytes.len().min(16)]);
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        check(b"GET / HTTP/1.1\r\n\r\n", "hello_not_tls");
        check(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "hello_not_tls");
        check(b"\x16\x03\x01", "more");
        check(b"\x80\x2e\x01\x03\x01", "hello_not_tls");
        // A hello that announces 65,000 bytes and goes on and on, record by record.
        let mut endless = Vec::new();
        for number in 0..20 {
            endless.extend_from_slice(b"\x16\x03\x01\x10\x00");
            let start: &[u8] = if number == 0 { b"\x01\x00\xfd\xe8" } else { b"" };
            endless.extend_from_slice(start);
            endless.resize(endless.len() + 4096 - start.len(), 0);
        }
        check(&endless, "hello_too_long");
    }

    #[tokio::test]
    async fn a_client_that_stalls_is_not_waited_for() {
        let (mut near, mut far) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut near, b"\x16\x03").await.unwrap();
        let error = read(&mut far, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.reason(), "hello_timeout");
        drop(near);
        let error = read(&mut far, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.reason(), "hello_gone");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut hostile = b"\x16\x03\x01".to_vec();
            hostile.extend(&bytes);
            for bytes in [&bytes, &hostile] {
                let _ = Parser::default().feed(bytes);
            }
        }

        #[test]
        fn a_damaged_hello_is_read_or_refused(at: u16, value: u8, cut: u16) {
            let mut bytes = hello("a.test", &[b"h2"]);
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - usize::from(cut) % bytes.len());
            if let Ok(Some(hello)) = Parser::default().feed(&bytes) {
                prop_assert_eq!(hello.bytes, bytes);
            }
        }
    }
}
