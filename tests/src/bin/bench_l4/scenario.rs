//! What a unit of load is, and how wrk makes it.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::Result;
use testbed::{
    bench::wrk::{self, Count},
    namespace::Namespace,
};

/// Connections that are open at once.
const CONNECTIONS: u32 = 64;

/// What a unit of load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// A request on a connection that stays open.
    #[value(name = "keepalive")]
    KeepAlive,
    /// A connection with one request.
    Close,
}

impl Scenario {
    /// Both, in the order they are measured.
    pub(crate) const ALL: [Self; 2] = [Self::KeepAlive, Self::Close];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keepalive",
            Self::Close => "close",
        }
    }

    /// What is counted.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::KeepAlive => "requests",
            Self::Close => "connections",
        }
    }

    /// Loads a server or a VIP from a namespace.
    ///
    /// # Errors
    /// When wrk fails.
    pub(crate) fn load(
        self,
        client: &Namespace,
        target: SocketAddr,
        time: Duration,
    ) -> Result<Count> {
        let headers: &[&str] = match self {
            Self::KeepAlive => &[],
            Self::Close => &["Connection: close"],
        };
        wrk::run(client.command("wrk"), CONNECTIONS, time, headers, &format!("http://{target}/"))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
