//! The PROXY protocol, versions 1 and 2: who the client is, said in front of everything else
//! (proxy-protocol.txt, revision 2.2, of the HAProxy project). The format itself is
//! proxy-protocol-rs'; here is what a hostile network asks for besides: who may say it, how
//! long and how large, and never a byte too many taken from the connection.

mod read;
mod write;

use std::{io, time::Duration};

use super::{
    outcome::{Cause, Outcome, Phase},
    socket::{Addresses, Socket},
};
use crate::model::frontend::AcceptProxy;

pub use self::{
    read::{Header, MAX_BYTES, parse, read},
    write::{Facts, encode},
};

/// Why a connection's header is refused. The peer is to blame: a client that got past
/// whoever should write the header, or that writer.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It did not arrive in time.
    #[error("no whole PROXY header within {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The peer hung up before its end.
    #[error("the peer hung up within the PROXY header")]
    Gone(#[source] io::Error),
    /// The first bytes are something else.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// It is longer than any good one.
    #[error("the PROXY header is {length} bytes long, more than {MAX_BYTES}")]
    TooLong {
        /// Its length as announced.
        length: usize,
    },
    /// It is broken.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(String),
    /// It is about something other than a stream.
    #[error("the PROXY header is about datagrams")]
    NotStream,
}

/// Who is at the other end of a new connection: whom its PROXY header says, if `accept` wants
/// one from the peer, else whom `addresses` say.
///
/// # Errors
/// [`HeaderError`]; the connection is of no more use.
///
/// # Cancel safety
/// None: a part of the header may be taken.
pub async fn introduce(
    socket: &mut Socket,
    addresses: Addresses,
    accept: Option<&AcceptProxy>,
) -> Result<Addresses, HeaderError> {
    let from = addresses.source.ip();
    let due = accept.filter(|it| it.sources.iter().any(|network| network.contains(&from)));
    let Some(accept) = due else { return Ok(addresses) };
    Ok(read(socket, accept.timeout).await?.addresses.unwrap_or(addresses))
}

impl HeaderError {
    /// What the connection comes to.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        let cause = match self {
            Self::Timeout { .. } => Cause::ClientTimeout,
            _ => Cause::Client,
        };
        Outcome::new(cause, Phase::Request, self.reason())
    }

    /// A short word for logs and counters, stable.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "proxy_header_timeout",
            Self::Gone(_) => "proxy_header_gone",
            Self::Missing => "proxy_header_missing",
            Self::TooLong { .. } => "proxy_header_too_long",
            Self::Malformed(_) => "proxy_header_malformed",
            Self::NotStream => "proxy_header_not_stream",
        }
    }
}
