//! What a connection passes before its first request: PROXY header, limits, TLS.

use std::rc::Rc;

use super::{
    client::Client,
    outcome::{Cause, Outcome, Phase},
};
use crate::proxy::{
    limits::Admission,
    listen::Accepted,
    plan::Door,
    proxy_protocol::{self, HeaderError},
    socket::Addresses,
    stream::Stream,
    tls::{
        error::{Blame, HandshakeError},
        facts::TlsFacts,
    },
    worker::{FrontendSlot, Worker},
};

/// A connection that was let in.
pub(super) struct Entered {
    pub(super) stream: Stream,
    pub(super) addresses: Addresses,
    pub(super) tls: Option<TlsFacts>,
    /// Its place within the limits, for as long as it lasts.
    pub(super) admission: Admission,
}

/// Lets a connection in; none if it is refused, which is logged, or if the frontend ends.
pub(super) async fn pass(
    worker: &Rc<Worker>,
    slot: &Rc<FrontendSlot>,
    door: &Door,
    accepted: Accepted,
) -> Option<Entered> {
    slot.stop.run_until_cancelled(enter(worker, slot, door, accepted)).await?
}

async fn enter(
    worker: &Rc<Worker>,
    slot: &Rc<FrontendSlot>,
    door: &Door,
    accepted: Accepted,
) -> Option<Entered> {
    let Accepted { mut socket, addresses } = accepted;
    socket.tune().ok()?;
    let plan = slot.plan();
    let refuse = |addresses, why| {
        Client::new(worker, slot, addresses, None, plan.config.timeouts).log_refused(why, None);
    };
    let accept = door.accept_proxy.as_ref();
    let addresses = match proxy_protocol::introduce(&mut socket, addresses, accept).await {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::debug!(peer = %addresses.source, "{error}");
            refuse(addresses, of_header(&error));
            return None;
        }
    };
    let source = addresses.source.ip();
    let admission = match plan.connections.admit(source, &plan.config.connections) {
        Ok(admission) => admission,
        Err(error) => {
            tracing::debug!(frontend = %plan.name, %source, "connection refused: {error}");
            socket.abort_on_close();
            return None;
        }
    };
    let (stream, tls) = match &door.termination {
        None => (Stream::Plain(socket), None),
        Some(termination) => match termination.accept(socket).await {
            Ok((stream, facts)) => (Stream::Client(Box::new(stream)), Some(facts)),
            Err(error) => {
                tracing::debug!(client = %addresses.source, "{error}");
                refuse(addresses, of_handshake(&error));
                return None;
            }
        },
    };
    Some(Entered { stream, addresses, tls, admission })
}

fn of_header(error: &HeaderError) -> Outcome {
    let cause = match error {
        HeaderError::Timeout { .. } => Cause::ClientTimeout,
        _ => Cause::Client,
    };
    Outcome::new(cause, Phase::Request, error.reason())
}

fn of_handshake(error: &HandshakeError) -> Outcome {
    let cause = match (error, error.blame()) {
        (HandshakeError::Timeout { .. }, _) => Cause::ClientTimeout,
        (_, Blame::Peer) => Cause::Client,
        (_, Blame::Limit) => Cause::Policy,
        (_, Blame::Us) => Cause::Host,
    };
    Outcome::new(cause, Phase::Request, error.client_reason())
}
