//! A connection to a server as it is handed on, from request to request.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use hyper::client::conn::{http1, http2};
use tokio::sync::oneshot;

use super::{
    far_end::Tunnel, http::body::RequestBody, plan::BackendPlan, server_io::Awaited,
    settings::Settings, tls::encryption::Encryption,
};
use crate::model::backend::ServerProtocol;

/// A connection to a server. It stays where it was made; who has it hands on a pointer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: Sender,
    pub(super) handover: Handover,
    /// The TLS it was made with: another configuration does not get it.
    pub(super) encryption: Option<Arc<Encryption>>,
}

/// hyper's end of it.
#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// Shared by all requests of the worker to this server.
    Http2(http2::SendRequest<RequestBody>),
}

/// What the requests of a connection have in common with its task.
#[derive(Clone, Debug, Default)]
pub(super) struct Handover {
    /// Whom to give the stream to if the server changes the protocol.
    pub(super) to: Rc<RefCell<Option<oneshot::Sender<Tunnel>>>>,
    pub(super) awaited: Awaited,
    /// Of a server of HTTP/2.
    pub(super) settings: Settings,
}

impl Link {
    /// The same connection once more, if many may have it at a time.
    pub(super) fn shared(&self) -> Option<Box<Self>> {
        let Sender::Http2(shared) = &self.sender else { return None };
        Some(Box::new(Self {
            sender: Sender::Http2(shared.clone()),
            handover: self.handover.clone(),
            encryption: self.encryption.clone(),
        }))
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether a request to `backend` can have it now.
    pub(super) fn is_usable(&self, backend: &BackendPlan) -> bool {
        let is_same = match (&self.encryption, &backend.encryption) {
            (None, None) => true,
            (Some(own), Some(wanted)) => Arc::ptr_eq(own, wanted),
            _ => false,
        };
        let is_ready = match (&self.sender, backend.settings.protocol) {
            (Sender::Http1(sender), ServerProtocol::Http1) => sender.is_ready(),
            (Sender::Http2(sender), ServerProtocol::Http2) => sender.is_ready(),
            _ => false,
        };
        is_same && is_ready
    }
}
