//! What the admin interface asks of the control loop, and how it gets the answer.

use tokio::sync::{mpsc, oneshot};

use super::api::{
    DropsView, FlowQuery, FlowsView, ReloadResult, ServerSet, ServerView, StatusView,
};
use crate::model::state::ServerId;

/// Commands waiting for the control loop at most; more are refused at once.
pub const QUEUE: usize = 32;

/// One question to the control loop, with the way back.
#[derive(Debug)]
pub enum Command {
    /// Everything at a glance.
    Status(Reply<StatusView>),
    /// Tracked connections.
    Flows(FlowQuery, Reply<FlowsView>),
    /// Counters of dropped packets.
    Drops(Reply<DropsView>),
    /// The operator's word about one server.
    SetServer(ServerId, ServerSet, Reply<ServerView>),
    /// Load the configuration again.
    Reload(Reply<ReloadResult>),
}

/// The way back of one command. Nobody may be listening any more.
pub type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// The control loop's end of the commands.
pub type Commands = mpsc::Receiver<Command>;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The configuration has no such server.
    #[error("there is no server '{server}' in backend '{backend}'")]
    UnknownServer {
        /// The backend asked for.
        backend: String,
        /// The server asked for.
        server: String,
        /// What the operator may have meant, or where to look.
        hint: String,
    },
    /// The configuration has no such backend.
    #[error("there is no backend '{backend}'")]
    UnknownBackend {
        /// The backend asked for.
        backend: String,
        /// What the operator may have meant, or where to look.
        hint: String,
    },
    /// The configuration has nothing of that name.
    #[error("there is no {what} '{name}'")]
    Unknown {
        /// What was named: `frontend`, `server`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The data plane could not be read.
    #[error("can not read the data plane: {0}")]
    Datapath(String),
    /// It is noted, and the data plane resists.
    #[error("noted, but the data plane did not take it yet: {0}")]
    NotApplied(String),
    /// There is no data plane.
    #[error("this agent runs without a data plane (datapath.mode: off)")]
    NoDatapath,
}
