//! The only place that knows aya: it loads, pins and attaches the XDP program and gives
//! typed access to its maps. It decides nothing about servers or configuration.
//!
//! [`DataPlane`] is the loader's result; [`Maps`] is what `reconcile` and `admin` use;
//! [`sweep`] and [`events`] watch flows end. Everything here blocks for the length of a
//! system call or more (`Maps::set_ring`: 8 to 16 ms), so callers on an async runtime
//! use a blocking thread, save for [`events`].

mod access;
mod addresses;
mod attach;
pub mod batch;
mod canned;
mod check_path;
mod elements;
pub mod error;
pub mod events;
mod expire;
pub mod expiry;
pub mod flows;
mod half_open;
mod host;
pub mod loader;
pub mod maps;
pub mod memory;
pub mod object;
mod origin;
#[cfg(feature = "dataplane-log")]
mod packet_log;
pub mod pins;
mod programs;
mod query;
mod recount;
mod resets;
mod ring_map;
pub mod rings;
mod settle;
mod shape;
pub mod stages;
pub mod sweep;
mod tables;
pub mod trace;

pub use addresses::AddressBits;
pub use attach::{Attached, Attachment, attached, program_name, tcx_programs};
pub use check_path::CheckPaths;
pub use error::DatapathError;
pub use events::EventReader;
pub use expire::{Expirer, expire};
pub use host::require as require_host;
pub use loader::DataPlane;
pub use maps::Maps;
pub use origin::Doubt;
pub use pins::{LockedPins, Pins, is_on_bpffs};
pub use programs::adoptable;
pub use resets::Resetter;
pub use settle::Settler;
pub use shape::{Capacities, CapacityKept};
pub use tables::{FlowTables, Table};
pub use trace::Traced;
