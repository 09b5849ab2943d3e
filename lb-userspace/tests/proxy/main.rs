//! The proxy on loopback, against clients and servers that speak bytes: what goes in, what
//! comes out on the other side, and what is refused.

mod access;
mod connect;
mod elsewhere;
mod encrypted;
mod floods;
mod hostile;
mod http2;
mod https;
mod introductions;
mod messages;
mod mirrors;
mod operation;
#[path = "../ports/mod.rs"]
mod ports;
mod real;
mod responses;
mod rig;
mod site;
mod streams;
mod timeouts;
mod trailers;
mod tunnels;
mod websockets;
