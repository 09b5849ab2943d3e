//! The stream of a server that has agreed on another protocol than HTTP.

use hyper::{body::Bytes, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::either::Either;

use super::stream::Stream;

/// The stream, and what the server has sent already.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) stream: FarEnd,
    pub(crate) first: Bytes,
}

/// What stands for a connection to a server: the connection itself, once HTTP/1.1 was given up
/// on it, or a stream of a connection of HTTP/2.
pub(crate) type FarEnd = Either<Stream, TokioIo<Upgraded>>;
