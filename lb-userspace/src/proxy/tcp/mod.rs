//! `mode: tcp`: joins a client's connection with one to a server.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | frontends and backends as sessions see them, over reloads |
//! | `accept` | the sockets of one worker |
//! | `session` | one connection from its acceptance to its line in the log |
//! | `route` | which backend, by server name |
//! | `reach` | a server: choosing, queueing, connecting, trying another |
//! | `relay` | both directions, their timeouts and their end |
//! | `direction` | one direction: copying, or splicing once that pays |
//! | `pipe` | the pipes that splicing needs |
//! | `live` | those of layer 4, for the operator |
//! | `record` | the access log's line |
//!
//! A session is one task of one worker. While it is idle it holds two sockets, a timer and
//! no buffer: what is read goes through a buffer of the worker, and a pipe is lent for as
//! long as bytes are in it.

pub(crate) mod accept;
mod direction;
pub(crate) mod live;
mod pipe;
pub mod plan;
pub mod reach;
pub mod record;
mod relay;
pub mod route;
pub mod session;

pub use self::pipe::Pipes;

#[cfg(test)]
mod tests;
