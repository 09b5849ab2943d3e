//! One connection of a client from its acceptance to its end: which HTTP it speaks, who
//! keeps whom waiting, and how it is closed.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use hyper::{StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{client::Client, client_io::ClientIo, entry, forward::serve, respond, tunnel};
use crate::model::frontend::ClientTimeouts;
use crate::proxy::{
    listen::Accepted,
    outcome::{Cause, Outcome, Phase},
    plan::Door,
    stream::Stream,
    timer::within,
    worker::{FrontendSlot, Worker},
};

/// Room for the first bytes of a client; most requests fit.
const FIRST: usize = 1024;
/// As many fields hyper reads without being told, and without allocating room for them.
/// A lower limit is `admit`'s alone.
const USUAL_FIELDS: usize = 100;
/// What every HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long, and for how many bytes, a client that was refused may go on talking, so that
/// it can read why before the kernel resets the connection.
pub(super) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Serves one connection.
pub(crate) async fn run(
    worker: Rc<Worker>,
    slot: Rc<FrontendSlot>,
    door: Arc<Door>,
    accepted: Accepted,
) {
    let Some(entered) = entry::pass(&worker, &slot, &door, accepted).await else { return };
    let entry::Entered { mut stream, addresses, tls, judged, admission: _admission } = entered;
    let ClientTimeouts { http_request, keep_alive, .. } = slot.plan().config.timeouts;
    // Who has agreed on a protocol keeps to it.
    let agreed = tls.as_ref().and_then(|(tls, _)| tls.alpn.as_deref()).map(|alpn| alpn == b"h2");
    let client = Client::new(&worker, &slot, addresses, tls, judged);
    let Some(first) = first_bytes(&client, &mut stream, http_request.min(keep_alive)).await else {
        return;
    };
    if agreed.unwrap_or_else(|| first.starts_with(PREFACE)) {
        // Boxed, so that connections of the other kind are not as large.
        Box::pin(super::http2::run(&client, stream, first)).await;
    } else {
        http1(&client, stream, first).await;
    }
}

/// What the client says first, enough to know what it speaks; none if it says nothing.
async fn first_bytes(client: &Client, stream: &mut Stream, after: Duration) -> Option<Vec<u8>> {
    let mut first = Vec::with_capacity(FIRST);
    let mut stop = pin!(client.frontend.stop.cancelled());
    let read = async {
        loop {
            let read = tokio::select! {
                // Most have said something already, and then nobody need be told of the end.
                biased;
                read = stream.read_buf(&mut first) => read,
                () = &mut stop => return None,
            };
            match read {
                Ok(1..) if first.len() < PREFACE.len() && PREFACE.starts_with(&first) => {}
                Ok(1..) => return Some(()),
                // Nobody is told of a connection without a byte, as with `dontlognull`.
                Ok(0) | Err(_) => return (!first.is_empty()).then_some(()),
            }
        }
    };
    within(after, read).await??;
    Some(first)
}

/// Why an HTTP/1 connection is not driven any more.
enum End {
    Done(hyper::Result<()>),
    /// A header was begun and not finished in time.
    HeaderTimeout,
    /// There was no further request for a while.
    Rest,
    /// There was no further request.
    Idle,
    /// The client took nothing for too long.
    Stalled,
}

/// While no request comes the connection is a socket and little else: hyper's buffers are
/// many times as large as what has to be known of it.
async fn http1(client: &Rc<Client>, mut stream: Stream, mut first: Vec<u8>) {
    while let Some(resting) = Box::pin(requests(client, stream, first)).await {
        (stream, first) = resting;
        client.worker.rests();
        if first.is_empty() && !rest(client, &stream).await {
            let _ = within(LINGER, stream.shutdown()).await;
            return;
        }
    }
}

/// Waits for the next request; false if none may come any more.
async fn rest(client: &Client, stream: &Stream) -> bool {
    let Some(left) = client.idleness_left() else { return false };
    client.receiving.set(left);
    let mut stop = pin!(client.frontend.stop.cancelled());
    poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() || client.receiving.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        // What there is to read, be it the end or an error, is for whoever reads it.
        stream.socket().poll_readable(cx).map(|_| true)
    })
    .await
}

/// Serves requests until the connection has ended, or rests: then it is given back, with
/// what has come of the next request.
async fn requests(
    client: &Rc<Client>,
    stream: Stream,
    first: Vec<u8>,
) -> Option<(Stream, Vec<u8>)> {
    let io = TokioIo::new(ClientIo::new(stream, Rc::clone(client), first));
    let limits = client.frontend.plan().config.limits;
    let service = service_fn(|request| serve(client, request));
    let mut builder = http1::Builder::new();
    if limits.header_count as usize > USUAL_FIELDS {
        builder.max_headers(limits.header_count as usize);
    }
    let mut connection = builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes as usize)
        .max_buf_size((limits.header_bytes as usize).max(64 * 1024))
        .serve_connection(io, service);
    let mut stop = pin!(client.frontend.stop.cancelled());
    let (mut is_told, mut is_watching) = (false, false);
    let end = poll_fn(|cx| {
        // Polled once, the token wakes this task.
        let is_news = !is_watching || client.frontend.has_stopped();
        is_watching = true;
        if !is_told && is_news && stop.as_mut().poll(cx).is_ready() {
            is_told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(End::Done(done));
        }
        // It is set by writing, which was done above.
        if client.sending.is_set() && client.sending.poll(cx).is_ready() {
            return Poll::Ready(End::Stalled);
        }
        while client.receiving.poll(cx).is_ready() {
            match (client.is_idle(), client.is_in_header()) {
                (true, true) => return Poll::Ready(End::HeaderTimeout),
                (true, false) => match client.idleness_left() {
                    None => return Poll::Ready(End::Idle),
                    Some(_) if client.is_at_rest() && !is_told => {
                        return Poll::Ready(End::Rest);
                    }
                    Some(left) => client.receiving.set(left),
                },
                // The header of the next request comes while this one is worked on.
                (false, _) => client.receiving.set(LINGER),
            }
        }
        Poll::Pending
    })
    .await;
    match end {
        End::Done(Ok(())) => {
            let parts = connection.into_parts();
            finish(client, parts.io.into_inner(), &parts.read_buf).await;
        }
        End::Done(Err(error)) => {
            let ClientIo { stream, .. } = connection.into_parts().io.into_inner();
            broke_off(client, stream, &error).await;
        }
        End::HeaderTimeout => {
            let ClientIo { mut stream, .. } = connection.into_parts().io.into_inner();
            let why = Outcome::new(Cause::ClientTimeout, Phase::Request, "header_timeout");
            client.log_refused(why, Some(StatusCode::REQUEST_TIMEOUT));
            let answer = respond::timed_out(&client.frontend.plan().pages);
            // A client that does not take it is not waited for.
            let _ = within(LINGER, stream.write_all(&answer)).await;
            linger(stream).await;
        }
        End::Rest => {
            let parts = connection.into_parts();
            let (stream, held) = parts.io.into_inner().into_parts();
            return Some((stream, [&parts.read_buf[..], &held].concat()));
        }
        End::Idle => {
            let mut stream = connection.into_parts().io.into_inner().stream;
            let _ = within(LINGER, stream.shutdown()).await;
        }
        End::Stalled => {
            let why = Outcome::new(Cause::ClientTimeout, Phase::Data, "client_timeout");
            client.failure.set(Some(why));
            let stream = connection.into_parts().io.into_inner().stream;
            stream.socket().abort_on_close();
        }
    }
    None
}

/// Every response was given in full.
async fn finish(client: &Rc<Client>, io: ClientIo, rest: &[u8]) {
    if let Some((exchange, server)) = client.take_tunnel() {
        let (stream, held) = io.into_parts();
        let first = [rest, &held].concat();
        tunnel::run(exchange, stream, first, server).await;
        return;
    }
    if client.lingers() {
        linger(io.stream).await;
    }
}

/// hyper gave the connection up: the client sent what is no request, or left, or a response
/// broke off.
async fn broke_off(client: &Client, stream: Stream, error: &hyper::Error) {
    if let Some(ambiguity) = client.ambiguity.get() {
        let why = Outcome::new(Cause::Client, Phase::Request, ambiguity.word());
        client.log_refused(why, Some(StatusCode::BAD_REQUEST));
    } else if error.is_parse_too_large() {
        let why = Outcome::new(Cause::Policy, Phase::Request, "header_bytes");
        client.log_refused(why, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    } else if error.is_parse() {
        let why = Outcome::new(Cause::Client, Phase::Request, "malformed");
        client.log_refused(why, Some(StatusCode::BAD_REQUEST));
    } else if client.is_in_header() {
        client.log_refused(Outcome::new(Cause::Client, Phase::Request, "client_left"), None);
        return;
    } else {
        // Whatever was under way is not complete, and must not look so.
        stream.socket().abort_on_close();
        return;
    }
    linger(stream).await;
}

/// Closes a connection whose client may still be sending, so that it can read the response.
pub(super) async fn linger(mut stream: Stream) {
    let farewell = async {
        stream.shutdown().await.ok()?;
        let mut taken = 0;
        // On the heap: every connection would be as large, and few linger.
        let mut scratch = vec![0; 4096];
        while taken < LINGER_BYTES {
            taken += stream.read(&mut scratch).await.ok().filter(|read| *read > 0)?;
        }
        Some(())
    };
    let _ = within(LINGER, farewell).await;
}
