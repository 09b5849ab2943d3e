//! `mode: http`: requests of clients to servers.
//!
//! | file | owns |
//! |---|---|
//! | `connection`, `http2` | a client's connection: protocol, timeouts, end |
//! | `entry` | what comes before: PROXY header, limits, TLS |
//! | `client`, `client_io` | a connection as its requests see it; its socket |
//! | `guard` | messages with two meanings, before hyper repairs them |
//! | `frames` | frames of HTTP/2 that lead nowhere |
//! | `forward`, `reach` | the way of a request; to a server, with what is tried again |
//! | `prepare`, `send` | the request as a server gets it; sending it, judging the response |
//! | `admit` | judging a request and giving it one form |
//! | `length` | responses with two lengths |
//! | `headers`, `forwarded` | fields for one connection; who the client is |
//! | `route` | what rules make of a request |
//! | `mirror` | copies for other backends |
//! | `choose`, `persist` | which server; cookies that bring a client back to it |
//! | `body` | bodies on their way |
//! | `upgrade`, `tunnel` | WebSocket: asking for one; being one |
//! | `exchange` | one request and its response |
//! | `respond`, `record` | what the client and the log are told of how it ended |

mod admit;
pub(crate) mod body;
mod captured;
mod choose;
mod client;
mod client_io;
pub(crate) mod connection;
mod entry;
mod exchange;
mod forward;
mod forwarded;
mod frames;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod guard;
mod headers;
mod http2;
mod length;
mod mirror;
mod persist;
mod prepare;
mod reach;
mod record;
mod respond;
mod route;
mod send;
mod tunnel;
mod upgrade;
