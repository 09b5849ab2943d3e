//! The proxy: `mode: http` and `mode: tcp` frontends, in user space.
//!
//! One worker a core, each with a `current_thread` runtime, listeners of its own
//! (`SO_REUSEPORT`) and a pool of server connections of its own; nothing on a request's
//! way crosses threads. It knows the model, the clock and `balance`; it is the only place
//! that knows rustls, and with the checks and the admin interface the only one that knows
//! hyper.
//!
//! | file | owns |
//! |---|---|
//! | `supervisor` | the workers together, over reloads |
//! | `plan`, `material` | the configuration as workers use it; what it needs from files |
//! | `worker` | one worker: listeners, frontends, connections |
//! | `http`, `rules` | requests, and where rules send them |
//! | `tcp` | joined connections |
//! | `udp` | datagrams, where there is no data plane |
//! | `gate`, `traffic` | what the data plane would refuse, and count, of layer 4 |
//! | `upstream`, `link`, `kept`, `server_io`, `far_end` | connections to servers: made; handed on; kept; as hyper, and as tunnels see them |
//! | `listen`, `socket`, `stream`, `tls`, `proxy_protocol`, `sni` | bytes and who is at the other end |
//! | `outcome`, `record` | how a request or a session ended; what the log shows of either |
//! | `report` | how it is doing, for the operator |
//! | `limits`, `timer`, `log`, `executor`, `memory` | what all of them need |

mod executor;
mod far_end;
pub mod gate;
pub(crate) mod http;
mod kept;
pub mod limits;
mod link;
pub mod listen;
pub mod log;
pub mod material;
mod memory;
pub mod outcome;
pub mod plan;
pub mod proxy_protocol;
mod record;
pub mod report;
pub mod rules;
mod server_io;
mod settings;
pub mod sni;
pub mod socket;
mod stream;
pub mod supervisor;
pub mod tcp;
pub mod timer;
pub mod tls;
pub mod traffic;
pub mod udp;
mod upstream;
pub mod worker;
