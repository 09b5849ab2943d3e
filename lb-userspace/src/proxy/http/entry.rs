//! What a connection passes before its first request: PROXY header, lists, limits, TLS.

use std::{rc::Rc, sync::Arc};

use futures_util::FutureExt;
use hyper::StatusCode;
use tokio::io::AsyncWriteExt;

use super::{
    client::Client,
    connection::{LINGER, linger},
};
use crate::balance::Refused;
use crate::proxy::{
    limits::{Admission, TooMany},
    listen::Accepted,
    outcome::{Cause, Outcome, Phase},
    plan::Door,
    proxy_protocol,
    socket::{Addresses, Socket},
    stream::Stream,
    timer::within,
    tls::{error::HandshakeError, facts::TlsFacts, termination::Termination},
    worker::{FrontendSlot, Worker},
};

/// What a client is told that speaks HTTP in the clear where TLS ends.
const IN_THE_CLEAR: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 47\r\n\
      connection: close\r\n\r\nA plain request came to a port that wants TLS.\n";

/// A connection that was let in.
pub(super) struct Entered {
    pub(super) stream: Stream,
    pub(super) addresses: Addresses,
    /// What was agreed on, and where.
    pub(super) tls: Option<(TlsFacts, Arc<Termination>)>,
    /// The rules on sources by which it was let in.
    pub(super) judged: u64,
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
    // Boxed, so that connections are not as large for good as a handshake is.
    let mut entering = Box::pin(enter(worker, slot, door, accepted));
    // Without a handshake there is nothing to wait for, and nothing to be told of.
    if let Some(entered) = (&mut entering).now_or_never() {
        return entered;
    }
    slot.stop.run_until_cancelled(entering).await?
}

async fn enter(
    worker: &Rc<Worker>,
    slot: &Rc<FrontendSlot>,
    door: &Door,
    accepted: Accepted,
) -> Option<Entered> {
    let Accepted { mut socket, addresses } = accepted;
    let plan = slot.plan();
    // Before it is: rules that come meanwhile are for its first request.
    let judged = plan.gate.generation();
    let refuse = |addresses, why, status| {
        Client::new(worker, slot, addresses, None, judged).log_refused(why, status);
    };
    let limits = &plan.config.connections;
    plan.counters.count_connection(worker.teller);
    let too_many = |error: TooMany, socket: &Socket, addresses: Addresses| {
        plan.counters.count_refused(worker.teller, Refused::Limit);
        tracing::debug!(frontend = %plan.name, source = %addresses.source, "refused: {error}");
        refuse(addresses, Outcome::new(Cause::Policy, Phase::Request, error.reason()), None);
        socket.abort_on_close();
    };
    // Whoever introduces clients counts, too, until it has.
    let mut admission = match plan.connections.admit(limits) {
        Ok(admission) => admission,
        Err(error) => {
            too_many(error, &socket, addresses);
            return None;
        }
    };
    let accept = door.accept_proxy.as_ref();
    let addresses = match proxy_protocol::introduce(&mut socket, addresses, accept).await {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::debug!(peer = %addresses.source, "{error}");
            refuse(addresses, error.outcome(), None);
            return None;
        }
    };
    let source = addresses.source.ip();
    if let Err(reason) = plan.gate.judge(addresses.peer()) {
        plan.counters.count_refused(worker.teller, Refused::Source);
        refuse(addresses, Outcome::new(Cause::Policy, Phase::Request, reason.name()), None);
        socket.abort_on_close();
        return None;
    }
    // The many clients of a proxy that is trusted are not one source.
    let is_of_many = plan.config.trusted_proxies.iter().any(|network| network.contains(&source));
    if !is_of_many && let Err(error) = admission.attribute(addresses.peer(), limits) {
        too_many(error, &socket, addresses);
        return None;
    }
    let (stream, tls) = match &door.termination {
        None => (Stream::Plain(socket), None),
        Some(termination) => match encrypt(socket, termination).await {
            Ok((stream, facts)) => (stream, Some((facts, Arc::clone(termination)))),
            Err(NoTls::Failed(error)) => {
                tracing::debug!(client = %addresses.source, "{error}");
                refuse(addresses, error.of_client(), None);
                return None;
            }
            Err(NoTls::Clear(socket)) => {
                let why = Outcome::new(Cause::Client, Phase::Request, "not_tls");
                refuse(addresses, why, Some(StatusCode::BAD_REQUEST));
                explain(socket).await;
                return None;
            }
        },
    };
    Some(Entered { stream, addresses, tls, judged, admission })
}

/// Why there is no TLS with a client.
enum NoTls {
    Failed(HandshakeError),
    /// The client speaks in the clear, and seems to speak HTTP.
    Clear(Socket),
}

async fn encrypt(socket: Socket, termination: &Termination) -> Result<(Stream, TlsFacts), NoTls> {
    let after = termination.settings().handshake_timeout;
    let shake = async {
        let mut first = [0];
        // A method begins with a letter, and no record of TLS does. A socket that is gone
        // says so in the handshake.
        if matches!(socket.peek(&mut first).await, Ok(1..)) && first[0].is_ascii_uppercase() {
            return Err(NoTls::Clear(socket));
        }
        let (stream, facts) = termination.accept(socket).await.map_err(NoTls::Failed)?;
        Ok((Stream::Client(Box::new(stream)), facts))
    };
    let late = || Err(NoTls::Failed(HandshakeError::Timeout { after }));
    within(after, shake).await.unwrap_or_else(late)
}

/// Says what is wrong in the way the client speaks.
async fn explain(socket: Socket) {
    let mut stream = Stream::Plain(socket);
    // A client that does not take it is not waited for.
    let _ = within(LINGER, stream.write_all(IN_THE_CLEAR)).await;
    linger(stream).await;
}
