//! Requests for a WebSocket: by `Upgrade` (RFC 6455, 4.1), or by extended CONNECT on a stream
//! of HTTP/2 (RFC 8441). Rules see both as the first, and servers as is usual in their version.
//! And `CONNECT` as such (RFC 9110, 9.3.6), for servers that are forward proxies.

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    ext::Protocol,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
    },
    http::{request, response},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::task;

use super::{
    body::ResponseBody,
    exchange::Exchange,
    headers::{self, Present},
    tunnel,
};
use crate::proxy::far_end::Tunnel;

/// What a request asks for besides a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// A WebSocket in place of the connection.
    Upgrade,
    /// A WebSocket in place of a stream.
    Stream,
    /// A tunnel to where the server is to connect, in place of the connection, or of a stream.
    Connect,
    /// Another protocol, which is not spoken here.
    Other,
}

impl Asked {
    /// `present` is what it has; `takes_connect`: `CONNECT` is taken.
    pub(super) fn by(request: &Request<Incoming>, present: Present, takes_connect: bool) -> Self {
        let fields = request.headers();
        let is_connect = takes_connect && request.method() == Method::CONNECT;
        if request.version() == Version::HTTP_2 {
            return match request.extensions().get::<Protocol>() {
                None if is_connect => Self::Connect,
                None => Self::Nothing,
                Some(protocol) if protocol.as_str() == "websocket" => Self::Stream,
                Some(_) => Self::Other,
            };
        }
        if is_connect {
            return Self::Connect;
        }
        if request.method() != Method::CONNECT && !present.has(Present::UPGRADE) {
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

    /// Whether what comes after success is not HTTP.
    pub(super) fn is_tunnel(self) -> bool {
        self.is_websocket() || self == Self::Connect
    }
}

/// The fields with which a server of HTTP/1.1 is asked.
pub(super) fn ask(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // On a stream of HTTP/2 there is none.
    fields.entry(SEC_WEBSOCKET_KEY).or_insert_with(|| value(&fastrand::u128(..).to_be_bytes()));
}

/// The request by which a server of HTTP/2 is asked; what it becomes has its target already.
pub(super) fn ask_on_stream(parts: &mut request::Parts) {
    parts.method = Method::CONNECT;
    parts.extensions.insert(Protocol::from_static("websocket"));
    parts.headers.remove(SEC_WEBSOCKET_KEY);
}

/// What a client of HTTP/1.1 is told of the key that it sent (RFC 6455, 4.2.2).
pub(super) fn accept(key: &HeaderValue) -> HeaderValue {
    let mut digest = Sha1::new_with_prefix(key.as_bytes());
    digest.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    value(&digest.finalize())
}

/// Bytes in base64, as a value.
fn value(bytes: &[u8]) -> HeaderValue {
    // Digits make a value.
    HeaderValue::try_from(BASE64_STANDARD.encode(bytes)).unwrap_or(HeaderValue::from_static(""))
}

/// The response by which the server's stream is joined with the client's connection, or,
/// if that is one of HTTP/2, with the stream that `on_stream` gives.
pub(super) fn agree(
    mut parts: response::Parts,
    mut exchange: Box<Exchange>,
    server: Tunnel,
    on_stream: Option<OnUpgrade>,
    asked: Asked,
) -> Response<ResponseBody> {
    let Some(on_stream) = on_stream else {
        if asked.is_websocket() {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        let client = std::rc::Rc::clone(&exchange.client);
        client.open_tunnel(exchange, server);
        return Response::from_parts(parts, ResponseBody::Empty);
    };
    if asked.is_websocket() {
        parts.status = StatusCode::OK;
        exchange.status = Some(parts.status);
        // The key was ours.
        parts.headers.remove::<HeaderName>(SEC_WEBSOCKET_ACCEPT);
    }
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
    fn the_answer_to_a_key_is_that_of_the_standard() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        let mut fields = HeaderMap::new();
        ask(&mut fields);
        let key = fields[SEC_WEBSOCKET_KEY].to_str().unwrap();
        assert_eq!(BASE64_STANDARD.decode(key).unwrap().len(), 16, "{key}");
    }
}
