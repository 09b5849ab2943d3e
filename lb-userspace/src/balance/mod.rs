//! Balancing for the proxy: which server gets a request, how many it may have at a time,
//! who waits, what may be tried again, and what traffic says of servers.
//!
//! Pure: no I/O, no clock, no randomness; time, seeds and hashes are parameters. A
//! request that finds room takes no lock: what is global is atomic numbers and one
//! immutable view for each pool (`ArcSwap`). It must not know the proxy that calls it, nor
//! who tells it of servers.
//!
//! | file | owns |
//! |---|---|
//! | [`pool`] | one backend: the way of a request through the rest |
//! | `view`, `tier` | how its servers stand; who shares requests, with turns and ring |
//! | `choose`, `schedule` | the algorithms; turns by weight |
//! | [`key`] | what hashing algorithms hash |
//! | `counters`, `timings` | what requests came to, and how long they took |
//! | `teller` | who counts, in lines of its own |
//! | [`member`], `shared` | one server's counters; what those of a pool share |
//! | [`lease`], `queue` | a place at a server; those who wait for one |
//! | `breaker`, `slow_start`, `budget` | failures seen on traffic; coming back; retries |
//! | [`cookie`] | cookies that bring a client back to its server |
//! | [`pools`] | all backends, and what is known of their servers |

mod breaker;
mod budget;
mod choose;
pub mod cookie;
mod copies;
mod counters;
pub mod key;
pub mod lease;
pub mod member;
pub mod pool;
pub mod pools;
mod queue;
mod schedule;
mod shared;
pub(crate) mod slow_start;
mod teller;
#[cfg(test)]
mod tests;
mod tier;
mod timings;
mod view;

pub use copies::{Copied, CopyCounters};
pub use counters::{Counters, Done, Fault, Refused, Totals};
pub use lease::{Abandoned, Lease, Outcome, Ticket};
pub use member::Member;
pub use pool::{KnownServer, MemberReport, PickError, PickFacts, Picked, Pool};
pub use pools::Pools;
pub(crate) use teller::LINES;
pub use teller::Teller;
pub use timings::{Durations, Timings};
