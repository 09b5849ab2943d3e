//! A request as a server of its backend gets it.

use std::{rc::Rc, sync::Arc};

use hyper::{
    Request, Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    header::{HOST, HeaderValue, SEC_WEBSOCKET_KEY},
    http::{request, uri::Scheme},
    upgrade::OnUpgrade,
};

use super::{
    body::{RequestBody, Upload, UploadLimits},
    choose,
    exchange::Exchange,
    mirror::{self, Copies},
    persist,
    respond::Failure,
    upgrade::{self, Asked},
};
use crate::{
    model::backend::ServerProtocol,
    proxy::{
        outcome::{Cause, Phase},
        plan::BackendPlan,
        rules::Edits,
        upstream::{Checkout, Introduction},
    },
};

/// For a `CONNECT` where servers speak HTTP/2.
const NO_CONNECT: Failure =
    Failure::new(StatusCode::NOT_IMPLEMENTED, Cause::Policy, Phase::Request, "connect_to_http2");

/// A request that is ready to go to a server of its backend, and what comes of that. It stays
/// where it is until it is sent, and so does the response until it is passed on: both are
/// large, and each future that they are handed to would move them twice.
pub(super) struct Prepared {
    /// None once it was sent.
    pub(super) message: Option<Request<RequestBody>>,
    /// The connection that it goes over.
    pub(super) connection: Option<Checkout>,
    /// None until a server has begun one.
    pub(super) response: Option<Response<Incoming>>,
    pub(super) backend: Arc<BackendPlan>,
    /// [`choose::hash`]'s.
    pub(super) hash: Option<u64>,
    pub(super) introduction: Option<Introduction>,
    /// What a client that asks for a WebSocket is told of its key.
    pub(super) accept: Option<HeaderValue>,
    pub(super) asked: Asked,
    /// What rules want, for the response as well.
    pub(super) edits: Edits,
    /// The stream of HTTP/2 that is to become a WebSocket.
    pub(super) on_stream: Option<OnUpgrade>,
}

impl Prepared {
    /// The request as rules change it and as the backend gets it; copies of it are sent where
    /// rules want them.
    ///
    /// # Errors
    /// Why not, and what rules want for the answer that says so.
    pub(super) fn new(
        exchange: &mut Exchange,
        request: Request<Incoming>,
        backend: Arc<BackendPlan>,
        edits: Edits,
        asked: Asked,
    ) -> Result<Box<Self>, Box<(Failure, Edits)>> {
        exchange.backend = Some(Arc::clone(&backend));
        let (mut parts, incoming) = request.into_parts();
        parts.extensions.clear();
        exchange.own = persist::own_server(&backend, &mut parts.headers);
        if let Err(failure) = edit(&mut parts, &backend, &edits, asked) {
            return Err(Box::new((failure, edits)));
        }
        let copies = match asked.is_tunnel() || edits.mirrors.is_empty() {
            true => None,
            false => mirror::copy(exchange, &parts, &edits.mirrors, &incoming),
        };
        // On a stream of HTTP/2 there is no key.
        let key = (asked == Asked::Upgrade).then(|| parts.headers.get(SEC_WEBSOCKET_KEY));
        let accept = key.flatten().map(upgrade::accept);
        // Before HTTP/2 has its host elsewhere.
        let hash = choose::hash(&backend, &exchange.addresses, &parts.uri, &parts.headers);
        prepare(&mut parts, &backend, asked.is_websocket());
        let client = &exchange.client;
        let introduction = Introduction::of(
            &backend,
            &exchange.introduction(),
            &client.owner,
            &client.worker.upstreams,
        );
        let body = body(exchange, incoming, &backend, copies);
        let message = Some(Request::from_parts(parts, body));
        Ok(Box::new(Self {
            message,
            connection: None,
            response: None,
            backend,
            hash,
            introduction,
            accept,
            asked,
            edits,
            on_stream: None,
        }))
    }
}

/// The request as rules change it. There is no path where a host is the target.
fn edit(
    parts: &mut request::Parts,
    backend: &BackendPlan,
    edits: &Edits,
    asked: Asked,
) -> Result<(), Failure> {
    let place = (asked == Asked::Connect).then(|| parts.headers.get(HOST).cloned()).flatten();
    if let Some(target) = edits.path_and_query()?.filter(|_| asked != Asked::Connect) {
        parts.uri = Uri::from(target);
    }
    edits.apply_to_request(&mut parts.headers);
    if let Some(place) = place {
        if backend.settings.protocol == ServerProtocol::Http2 {
            return Err(NO_CONNECT);
        }
        // Whatever rules say: two names of one place would be read in two ways.
        parts.headers.insert(HOST, place);
    }
    Ok(())
}

/// The header as a server of the backend gets it.
pub(super) fn prepare(parts: &mut request::Parts, backend: &BackendPlan, is_websocket: bool) {
    match backend.settings.protocol {
        ServerProtocol::Http1 => {
            parts.version = Version::HTTP_11;
            if is_websocket {
                upgrade::ask(&mut parts.headers);
            }
        }
        ServerProtocol::Http2 => {
            parts.version = Version::HTTP_2;
            let scheme = if backend.encryption.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            let host = parts.headers.remove(HOST);
            parts.uri = with_authority(&parts.uri, scheme, host.as_ref());
            if is_websocket {
                upgrade::ask_on_stream(parts);
            }
        }
    }
}

/// A target with the host in it, as HTTP/2 has it.
fn with_authority(target: &Uri, scheme: Scheme, host: Option<&HeaderValue>) -> Uri {
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    parts.path_and_query = target.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| target.clone())
}

/// The body, which is watched on its way.
fn body(
    exchange: &mut Exchange,
    incoming: Incoming,
    backend: &BackendPlan,
    copies: Option<Box<Copies>>,
) -> RequestBody {
    if incoming.is_end_stream() {
        return RequestBody::Empty;
    }
    let upload = Rc::new(Upload::default());
    if backend.settings.protocol == ServerProtocol::Http2 {
        upload.kept.replace(Some(Vec::new()));
    }
    exchange.upload = Some(Rc::clone(&upload));
    let config = &exchange.frontend.config;
    let limits = UploadLimits {
        bytes: config.limits.body_bytes,
        silence: exchange.timeouts.client(&config.timeouts),
        rate: config.limits.body_rate,
    };
    RequestBody::relayed(incoming, upload, limits, copies)
}
