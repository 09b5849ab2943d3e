//! `mode: tcp` and TLS of the proxy with real peers: openssl, curl, nginx, Redis. The agent
//! runs without a data plane and everything is on loopback, so this suite needs no privilege.

mod authority;
mod bed;
mod peers;
mod reloads;
mod tls;
