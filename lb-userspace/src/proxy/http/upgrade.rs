//! Requests for a WebSocket: by `Upgrade` (RFC 6455, 4.1), or by extended CONNECT on a stream
//! of HTTP/2 (RFC 8441). Rules and servers of HTTP/1.1 see both as the first.

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    ext::Protocol,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
    },
    http::response,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::task;

use super::{body::ResponseBody, exchange::Exchange, headers, tunnel};
use crate::proxy::upstream::Tunnel;

/// What a request asks for besides a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// A WebSocket in place of the connection.
    Upgrade,
    /// A WebSocket in place of a stream.
    Stream,
    /// Another protocol, which is not spoken here.
    Other,
}

impl Asked {
    pub(super) fn by(request: &Request<Incoming>) -> Self {
        let fields = request.headers();
        if request.version() == Version::HTTP_2 {
            return match request.extensions().get::<Protocol>() {
                None => Self::Nothing,
                Some(protocol) if protocol.as_str() == "websocket" => Self::Stream,
                Some(_) => Self::Other,
            };
        }
        if request.method() != Method::CONNECT && !fields.contains_key(UPGRADE) {
            return Self::Nothing;
        }
        let is_websocket = request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && request.body().is_end_stream()
            && headers::wants_upgrade(fields)
            && headers::is_websocket(fields);
        if is_websocket { Self::Upgrade } else { Self::Other }
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::Upgrade | Self::Stream)
    }
}

/// The fields with which a server of HTTP/1.1 is asked.
pub(super) fn ask(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // On a stream of HTTP/2 there is none.
    fields.entry(SEC_WEBSOCKET_KEY).or_insert_with(key);
}

/// Sixteen random bytes in base64 (RFC 6455, 4.1).
fn key() -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |_| ALPHABET[fastrand::usize(..ALPHABET.len())];
    let mut key: [u8; 24] = std::array::from_fn(digit);
    // Of the last digit only two bits are used.
    key[21] = ALPHABET[fastrand::usize(..4) * 16];
    key[22..].fill(b'=');
    // Digits make a value.
    HeaderValue::from_bytes(&key).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// The response by which the server's stream is joined with the client's connection, or,
/// if that is one of HTTP/2, with the stream that `on_stream` gives.
pub(super) fn agree(
    mut parts: response::Parts,
    mut exchange: Box<Exchange>,
    server: Tunnel,
    on_stream: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let Some(on_stream) = on_stream else {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let client = std::rc::Rc::clone(&exchange.client);
        client.open_tunnel(exchange, server);
        return Response::from_parts(parts, ResponseBody::Empty);
    };
    parts.status = StatusCode::OK;
    exchange.status = Some(parts.status);
    // The key was ours.
    parts.headers.remove::<HeaderName>(SEC_WEBSOCKET_ACCEPT);
    task::spawn_local(async move {
        // If it does not come about the client has left, which the exchange says when it is
        // dropped.
        if let Ok(stream) = on_stream.await {
            tunnel::run(exchange, TokioIo::new(stream), Vec::new(), server).await;
        }
    });
    Response::from_parts(parts, ResponseBody::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for _ in 0..1000 {
            let key = key();
            let text = key.to_str().unwrap().strip_suffix("==").unwrap();
            assert_eq!(text.len(), 22);
            assert!(
                text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b)),
                "{text}"
            );
            assert!(text.ends_with(['A', 'Q', 'g', 'w']), "{text}");
        }
    }
}
