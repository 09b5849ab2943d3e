//! The state of servers: what checks found, what the operator asked for, and what
//! follows from both.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::name::Name;

/// What a server is, all things considered. The words are HAProxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ServerState {
    /// Checked and well; gets new flows.
    Up,
    /// Failed its checks; gets nothing, its flows are settled.
    Down,
    /// The operator drains it: no new flows, existing ones finish; still checked.
    Drain,
    /// The operator took it out: as DOWN, and not checked.
    Maint,
    /// The server asked for no new flows (an HTTP check answered 404 with
    /// `disable_on_404`); existing ones finish.
    Nolb,
}

impl fmt::Display for ServerState {
    /// The word that JSON has: `UP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Drain => "DRAIN",
            Self::Maint => "MAINT",
            Self::Nolb => "NOLB",
        })
    }
}

/// What the operator asked for with `pointsman server set`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Nothing: the checks decide.
    #[default]
    Ready,
    /// Finish what is there, take nothing new.
    Drain,
    /// Out.
    Maint,
}

/// What the checks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Well, or not checked.
    Up,
    /// Failed.
    Down,
    /// Well, but asks for no new flows.
    Nolb,
}

/// A server's place in the configuration: backend and server name.
pub type ServerId = (Name, Name);

/// Everything known about one server at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// What the operator asked for.
    pub admin: AdminState,
    /// What the checks found.
    pub health: Health,
    /// Weight set at run time, in place of the configured one.
    pub weight: Option<u16>,
    /// Why `health` is what it is, for people: `connection refused`, `status 503`.
    pub reason: String,
}

impl Default for ServerStatus {
    /// Not checked yet: taken to be up, as HAProxy does, so that a start needs no wait.
    fn default() -> Self {
        Self {
            admin: AdminState::Ready,
            health: Health::Up,
            weight: None,
            reason: "not checked yet".into(),
        }
    }
}

impl ServerStatus {
    /// The state that follows: the operator's word before the checks'.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match (self.admin, self.health) {
            (AdminState::Maint, _) => ServerState::Maint,
            (_, Health::Down) => ServerState::Down,
            (AdminState::Drain, _) => ServerState::Drain,
            (AdminState::Ready, Health::Nolb) => ServerState::Nolb,
            (AdminState::Ready, Health::Up) => ServerState::Up,
        }
    }
}

/// The status of every configured server. A server without an entry has the default one.
pub type ServerStatuses = BTreeMap<ServerId, ServerStatus>;
