//! Real clients and servers through the proxy, and what peers do that behave badly. The agent
//! runs without a data plane and everything is on loopback.

mod bulk;
mod messages;
mod misbehaviour;
mod postgres;
mod reloads;
mod servers;
