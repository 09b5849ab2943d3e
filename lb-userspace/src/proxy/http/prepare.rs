//! A request as a server of its backend gets it.

use std::rc::Rc;

use hyper::{
    Uri, Version,
    body::{Body, Incoming},
    header::{HOST, HeaderValue},
    http::{request, uri::Scheme},
};

use super::{
    body::{RequestBody, Upload, UploadLimits},
    exchange::Exchange,
    respond::Failure,
    upgrade,
};
use crate::{
    model::backend::ServerProtocol,
    proxy::{plan::BackendPlan, rules::Edits},
};

/// The request as rules change it.
pub(super) fn edit(parts: &mut request::Parts, edits: &Edits<'_>) -> Result<(), Failure> {
    if let Some(target) = edits.path_and_query()? {
        parts.uri = Uri::from(target);
    }
    edits.apply_to_request(&mut parts.headers);
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
pub(super) fn body(exchange: &mut Exchange, incoming: Incoming) -> RequestBody {
    if incoming.is_end_stream() {
        return RequestBody::Empty;
    }
    let upload = Rc::new(Upload::default());
    exchange.upload = Some(Rc::clone(&upload));
    let config = &exchange.frontend.config;
    let limits = UploadLimits {
        bytes: config.limits.body_bytes,
        silence: config.timeouts.client,
        rate: config.limits.body_rate,
    };
    RequestBody::relayed(incoming, upload, limits)
}
