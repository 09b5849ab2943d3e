//! The tables: every family that there is, one file a subject.

mod agent;
mod datapath;
mod proxy;
mod server;

use super::family::Group;

/// All of them, in the order of the page.
pub(super) static GROUPS: [&Group; 6] = [
    &agent::GROUP,
    &agent::PROCESS,
    &datapath::GROUP,
    &datapath::VIPS,
    &proxy::GROUP,
    &server::GROUP,
];
