//! The proxy: `mode: http` and `mode: tcp` frontends, in user space.
//!
//! One worker a core, each with a `current_thread` runtime, listeners of its own
//! (`SO_REUSEPORT`) and a pool of server connections of its own; nothing on a request's
//! way crosses threads. It knows the model, the clock and `balance`; it is the only place
//! that knows rustls, and with the checks and the admin interface the only one that knows
//! hyper.

pub mod limits;
pub mod listen;
pub mod proxy_protocol;
pub mod rules;
pub mod sni;
pub mod socket;
pub mod tcp;
pub mod tls;
