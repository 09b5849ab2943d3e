//! The body of a response, which gives the connection back when it has ended.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1::SendRequest,
};

use crate::serve::keep;

/// The body of a response.
pub(crate) struct Relayed {
    incoming: Incoming,
    connection: Option<SendRequest<Incoming>>,
}

impl Relayed {
    /// A body that comes over `connection`.
    pub(crate) fn new(incoming: Incoming, connection: SendRequest<Incoming>) -> Self {
        let mut relayed = Self { incoming, connection: Some(connection) };
        relayed.give_back();
        relayed
    }

    /// Once nothing more comes the next request may have the connection.
    fn give_back(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            keep(connection);
        }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        self.give_back();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
