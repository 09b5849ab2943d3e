//! An HTTP/2 connection of a client.
//!
//! What a client may cost is bounded: streams and the size of headers here, resets that h2
//! makes because of a client's faults (CVE-2025-8671) here, CONTINUATION and small DATA
//! frames by h2, what else leads nowhere by [`frames`](super::frames).

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use hyper::{Version, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{client::Client, client_io::ClientIo, forward::serve};
use crate::proxy::{
    executor::LocalExecutor,
    outcome::{Cause, Outcome, Phase},
    stream::Stream,
};

/// How far a stream and a connection may be ahead of the server they go to.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that are ready before the client takes them, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client has to finish once it was told to go.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves it; `first` has come already.
pub(super) async fn run(client: &Rc<Client>, stream: Stream, first: Vec<u8>) {
    client.version.set(Version::HTTP_2);
    let io = TokioIo::new(ClientIo::of_http2(stream, Rc::clone(client), first));
    let limits = client.frontend.plan().config.limits;
    let service = {
        let client = Rc::clone(client);
        service_fn(move |request| serve(&client, request))
    };
    let mut connection = pin!(
        http2::Builder::new(LocalExecutor)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_bytes)
            .max_pending_accept_reset_streams(limits.resets as usize)
            .max_local_error_reset_streams(limits.resets as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .enable_connect_protocol()
            .serve_connection(io, service)
    );
    let mut stop = pin!(client.frontend.stop.cancelled());
    let mut is_told = false;
    poll_fn(|cx| {
        if !is_told && stop.as_mut().poll(cx).is_ready() {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        let ended = connection.as_mut().poll(cx);
        if let Some(flood) = client.flood.get() {
            // Requests that are under way are cut off by it.
            let why = Outcome::new(Cause::Policy, Phase::Request, flood.word());
            client.failure.set(Some(why));
            client.log_refused(why, None);
            return Poll::Ready(());
        }
        if let Poll::Ready(ended) = ended {
            if let Some(why) = ended.err().and_then(|error| fault(&error)) {
                client.failure.set(Some(why));
                client.log_refused(why, None);
            }
            return Poll::Ready(());
        }
        client.look_at_watched(cx);
        if client.sending.poll(cx).is_ready() {
            let why = Outcome::new(Cause::ClientTimeout, Phase::Data, "client_timeout");
            client.failure.set(Some(why));
            return Poll::Ready(());
        }
        if client.is_idle() && client.receiving.poll(cx).is_ready() {
            if let Some(left) = client.idleness_left().filter(|_| !is_told) {
                client.receiving.set(left);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if is_told {
                return Poll::Ready(());
            }
            is_told = true;
            connection.as_mut().graceful_shutdown();
            client.receiving.set(FAREWELL);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// What the client did if h2 has given the connection up for it; none if the connection only
/// ended.
fn fault(error: &hyper::Error) -> Option<Outcome> {
    let source = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    let reason = source.reason().filter(|_| !source.is_remote())?;
    let (cause, why) = match reason {
        h2::Reason::NO_ERROR => return None,
        // Limits of h2 that are set here.
        h2::Reason::ENHANCE_YOUR_CALM => (Cause::Policy, "http2_limits"),
        _ => (Cause::Client, "malformed"),
    };
    Some(Outcome::new(cause, Phase::Request, why))
}
