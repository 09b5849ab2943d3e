//! What the admin interface asks of the control loop, and how it gets the answer.

use std::time::Duration;

use hyper::body::Bytes;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::{
    access::{AccessOrder, AccessView, LimitsOrder},
    api::{
        BlockView, BlocksView, DropsView, FlowQuery, FlowsView, ReloadResult, ServerSet,
        ServerView, StatusView,
    },
    scrape::PageFormat,
    trace::TraceOrder,
};
use crate::model::{name::Name, state::ServerId};

/// Commands waiting for the control loop at most; more are refused at once.
pub const QUEUE: usize = 32;

/// A block, asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOrder {
    /// Who; in canonical form.
    pub network: IpNet,
    /// For one frontend; none for all.
    pub frontend: Option<Name>,
    /// For how long; none until it is taken back.
    pub time: Option<Duration>,
    /// Why; may be empty.
    pub reason: String,
}

/// The end of a block, asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnblockOrder {
    /// Who; in canonical form.
    pub network: IpNet,
    /// The frontend it was blocked for.
    pub frontend: Option<Name>,
}

/// One question to the control loop, with the way back.
#[derive(Debug)]
pub enum Command {
    /// Everything at a glance.
    Status(Reply<StatusView>),
    /// Tracked connections.
    Flows(FlowQuery, Reply<FlowsView>),
    /// A page of metrics.
    Metrics(PageFormat, Reply<Page>),
    /// Counters of dropped packets.
    Drops(Reply<DropsView>),
    /// The operator's word about one server.
    SetServer(ServerId, ServerSet, Reply<ServerView>),
    /// What is blocked.
    Blocks(Reply<BlocksView>),
    /// Block a source.
    Block(BlockOrder, Reply<BlockView>),
    /// Do not block it any more.
    Unblock(UnblockOrder, Reply<BlocksView>),
    /// What was said of lists and limits at run time.
    Access(Reply<AccessView>),
    /// Say something of a network.
    SetAccess(AccessOrder, Reply<AccessView>),
    /// Change limits.
    SetLimits(LimitsOrder, Reply<AccessView>),
    /// Show packets: records, until either end has had enough.
    Trace(TraceOrder, Reply<Packets>),
    /// Load the configuration again.
    Reload(Reply<ReloadResult>),
}

/// Records of packets as they pass.
pub type Packets = mpsc::Receiver<Packet>;
/// A page of metrics, as text.
pub type Page = Bytes;
/// The record of one packet (`lb_common::trace`).
pub type Packet = Bytes;

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
    /// Nothing of the kind is blocked.
    #[error("{network} is not blocked{}", .frontend.as_ref().map(|name| format!(" for frontend '{name}'")).unwrap_or_default())]
    NotBlocked {
        /// The network asked for.
        network: String,
        /// The frontend asked for.
        frontend: Option<String>,
    },
    /// A list would become one of another kind.
    #[error("the list would {0}")]
    OtherKind(&'static str),
    /// There is no room for another block or network.
    #[error("there is no room for another network ({0} at most)")]
    NoRoom(usize),
    /// Packets are shown to somebody already.
    #[error("somebody else traces packets")]
    Traced,
    /// The traced data plane could not take over.
    #[error("can not trace packets: {0}")]
    NotTraced(String),
    /// The data plane could not be read.
    #[error("can not read the data plane: {0}")]
    Datapath(String),
    /// The tables of metrics are at fault.
    #[error("the page of metrics could not be written")]
    NoPage,
    /// It is noted, and the data plane resists.
    #[error("noted, but the data plane did not take it yet: {0}")]
    NotApplied(String),
    /// There is no data plane, so there are no packets.
    #[error("this agent runs without a data plane (datapath.mode: off)")]
    NoDatapath,
}
