//! Which flows an operator asks for: the query of `GET /v1/flows`, and the options of
//! `pointsman flows`, which become one.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::snapshot::Protocol;

/// Query of `GET /v1/flows`; every field but `limit`, `sort` and `reverse` narrows the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Most flows to answer with; [`FlowQuery::DEFAULT_LIMIT`] by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only flows through this frontend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// Only flows to this server: `SERVER` or `BACKEND/SERVER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Only flows of this client, or of clients in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientFilter>,
    /// Only flows through this VIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<VipFilter>,
    /// Only flows in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFilter>,
    /// Only flows of this transport protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only flows with this port: the client's, the VIP's, the server's, or the one that
    /// the server sees as the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What to order by, the greatest first; without it, flows come in no order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<FlowSort>,
    /// With `sort`: the least first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverse: bool,
}

impl FlowQuery {
    /// Flows in an answer if the query does not say.
    pub const DEFAULT_LIMIT: usize = 100;
    /// Most flows in one answer.
    pub const MAX_LIMIT: usize = 100_000;
}

/// What flows can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowSort {
    /// Time since the flow was created.
    Age,
    /// Time since its last packet.
    Idle,
    /// Bytes in both directions.
    Bytes,
    /// Packets in both directions.
    Packets,
}

/// An address, or a network of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientFilter(IpNet);

/// A VIP's address, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipFilter {
    address: IpAddr,
    port: Option<u16>,
}

/// The name of a state of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateFilter(String);

/// What can not be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a client.
    #[error("'{0}' is neither an address nor a network such as 10.0.0.0/8")]
    Client(String),
    /// Not a VIP.
    #[error("'{0}' is neither an address nor one with a port, such as 10.0.0.100:5432")]
    Vip(String),
    /// Not a state.
    #[error("'{found}' is no state of a flow; there are {}", StateFilter::NAMES.join(", "))]
    State {
        /// What was asked for.
        found: String,
    },
}

impl ClientFilter {
    /// Whether it names this client.
    #[must_use]
    pub fn accepts(&self, client: IpAddr) -> bool {
        self.0.contains(&client)
    }
}

impl VipFilter {
    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The port; none if any will do.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it names this VIP.
    #[must_use]
    pub fn accepts(&self, vip: SocketAddr) -> bool {
        self.address == vip.ip() && self.port.is_none_or(|port| port == vip.port())
    }
}

impl StateFilter {
    /// Every state: those of TCP, then those of UDP.
    pub const NAMES: [&str; 10] = [
        "syn_sent",
        "syn_received",
        "established",
        "client_closing",
        "server_closing",
        "closing",
        "closed",
        "replied",
        "unreplied",
        "one_way",
    ];

    /// Whether it is the name of this state.
    #[must_use]
    pub fn accepts(&self, state: &str) -> bool {
        self.0 == state
    }
}

impl FromStr for ClientFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        network.map(Self).map_err(|_| FilterError::Client(text.to_owned()))
    }
}

impl FromStr for VipFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { address, port: None });
        }
        let vip: SocketAddr = text.parse().map_err(|_| FilterError::Vip(text.to_owned()))?;
        Ok(Self { address: vip.ip(), port: Some(vip.port()) })
    }
}

impl FromStr for StateFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let found = text.to_owned();
        if Self::NAMES.contains(&text) {
            Ok(Self(found))
        } else {
            Err(FilterError::State { found })
        }
    }
}

impl fmt::Display for ClientFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for VipFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.address.fmt(f),
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
        }
    }
}

impl fmt::Display for StateFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Filters travel as text.
macro_rules! as_text {
    ($($filter:ty),*) => {$(
        impl TryFrom<String> for $filter {
            type Error = FilterError;

            fn try_from(text: String) -> Result<Self, FilterError> {
                text.parse()
            }
        }

        impl From<$filter> for String {
            fn from(filter: $filter) -> Self {
                filter.to_string()
            }
        }
    )*};
}

as_text!(ClientFilter, VipFilter, StateFilter);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &FlowQuery, text: &str) {
        assert_eq!(serde_urlencoded::to_string(query).expect("it is text"), text);
        assert_eq!(&serde_urlencoded::from_str::<FlowQuery>(text).expect("it is a query"), query);
    }

    #[test]
    fn a_query_is_the_same_on_both_ends() {
        check(&FlowQuery::default(), "");
        let names = FlowQuery {
            limit: Some(5),
            server: Some("pg/pg1".into()),
            protocol: Some(Protocol::Udp),
            port: Some(5432),
            ..FlowQuery::default()
        };
        check(&names, "limit=5&server=pg%2Fpg1&protocol=udp&port=5432");
        let filters = FlowQuery {
            client: Some("2001:db8::/32".parse().expect("a network")),
            vip: Some("[2001:db8::1]:80".parse().expect("a VIP")),
            state: Some("established".parse().expect("a state")),
            sort: Some(FlowSort::Bytes),
            reverse: true,
            ..FlowQuery::default()
        };
        check(
            &filters,
            "client=2001%3Adb8%3A%3A%2F32&vip=%5B2001%3Adb8%3A%3A1%5D%3A80&state=established\
             &sort=bytes&reverse=true",
        );
    }

    #[test]
    fn filters_accept_what_they_name() {
        let client = |text: &str, client: &str| {
            let filter: ClientFilter = text.parse().expect("a client");
            filter.accepts(client.parse().expect("an address"))
        };
        assert!(client("10.0.0.7", "10.0.0.7") && !client("10.0.0.7", "10.0.0.8"));
        assert!(client("10.0.0.7/24", "10.0.0.8") && !client("0.0.0.0/0", "2001:db8::1"));
        let vip = |text: &str| {
            let filter: VipFilter = text.parse().expect("a VIP");
            filter.accepts("10.0.0.100:5432".parse().expect("a VIP"))
        };
        assert!(vip("10.0.0.100") && vip("10.0.0.100:5432") && !vip("10.0.0.100:80"));
    }

    #[test]
    fn what_is_no_filter_says_what_is() {
        for query in ["client=10.0.0", "client=10.0.0.0/33", "vip=:80", "state=open", "sort=name"] {
            assert!(serde_urlencoded::from_str::<FlowQuery>(query).is_err(), "{query}");
        }
        let error = "open".parse::<StateFilter>().expect_err("no state");
        assert!(error.to_string().contains("there are syn_sent, syn_received, established, "));
    }
}
