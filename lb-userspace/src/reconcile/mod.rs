//! The control loop's arithmetic: what the maps should hold, what they hold, and the
//! smallest safe sequence of changes from one to the other.
//!
//! [`desired()`] is a function of configuration, server states and next hops; [`Actual`] is
//! what the maps hold; [`plan()`] is a function of both; [`apply()`] carries a plan out. It is
//! level-triggered: after a failure, or a crash between any two operations, planning again
//! from what the maps then hold is right. If ids are short because old things hold them
//! until new ones are there, a plan leads part of the way and frees some for the next. Nothing is remembered between two rounds: ids and
//! generations live in the maps.

mod access;
mod actual;
mod apply;
mod desired;
mod ids;
mod operation;
mod plan;
mod read;
mod ring;
mod servers;
mod target;
#[cfg(test)]
mod tests;

pub use access::{Access, Rules, is_block, scopes};
pub use actual::{Actual, Places};
pub use apply::{ApplyError, ExecuteError, Kernel, apply};
pub use desired::{Desired, DesiredServer, DesiredVip, desired};
pub use operation::Operation;
pub use plan::{Plan, PlanError, plan};
pub use ring::{Layout, RingMember};
