//! From options to what the agent is asked for.

use std::{net::SocketAddr, str::FromStr};

use super::TraceArgs;
use crate::admin::trace::{TraceEnd, TraceOrder};

/// The two ends of a flow, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow(pub [SocketAddr; 2]);

/// Not a flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not two ends such as 192.0.2.7:40000,10.0.0.100:80")]
pub struct FlowError(String);

impl FromStr for Flow {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let error = || FlowError(text.to_owned());
        let (first, second) = text.split_once(',').ok_or_else(error)?;
        let end = |text: &str| text.trim().parse::<SocketAddr>().map_err(|_| error());
        Ok(Self([end(first)?, end(second)?]))
    }
}

/// What was asked for.
pub(super) fn of(args: &TraceArgs) -> TraceOrder {
    let any = TraceEnd::default();
    let host = args.host.map(|host| TraceEnd { address: Some(host), ..any });
    let port = args.port.map(|port| TraceEnd { port: Some(port), ..any });
    let vip = args.vip.map(|vip| TraceEnd { address: Some(vip.address()), port: vip.port() });
    let flow = args
        .flow
        .into_iter()
        .flat_map(|flow| flow.0)
        .map(|end| TraceEnd { address: Some(end.ip()), port: Some(end.port()) });
    TraceOrder {
        ends: [host, port, vip].into_iter().flatten().chain(flow).collect(),
        protocol: args.proto,
        sample: args.sample,
        snaplen: args.snaplen,
        duration_s: args.duration,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::snapshot::Protocol;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        trace: TraceArgs,
    }

    fn order(line: &str) -> TraceOrder {
        let words = ["trace"].into_iter().chain(line.split_whitespace());
        of(&Line::try_parse_from(words).expect("a good line").trace)
    }

    fn end(address: &str, port: u16) -> TraceEnd {
        TraceEnd { address: address.parse().ok(), port: (port != 0).then_some(port) }
    }

    #[test]
    fn without_options_every_packet_is_wanted() {
        let expected =
            TraceOrder { ends: vec![], protocol: None, sample: 1, snaplen: 256, duration_s: 60 };
        assert_eq!(order(""), expected);
    }

    #[test]
    fn options_are_conditions_of_their_own() {
        let found = order("--host 192.0.2.7 --port 80 --vip [2001:db8::1]:443 --proto udp");
        assert_eq!(found.ends, [end("192.0.2.7", 0), end("", 80), end("2001:db8::1", 443)]);
        assert_eq!(found.protocol, Some(Protocol::Udp));
        let found = order("--vip 10.0.0.100 --sample 16 --snaplen 2047 --duration 5");
        assert_eq!(found.ends, [end("10.0.0.100", 0)]);
        assert_eq!((found.sample, found.snaplen, found.duration_s), (16, 2047, 5));
    }

    #[test]
    fn a_flow_has_two_ends() {
        let found = order("--flow 192.0.2.7:40000,10.0.0.100:80 --proto tcp");
        assert_eq!(found.ends, [end("192.0.2.7", 40000), end("10.0.0.100", 80)]);
        for text in ["192.0.2.7:40000", "192.0.2.7,10.0.0.100:80", "a:1,b:2", ""] {
            let error = text.parse::<Flow>().expect_err("no flow");
            assert!(error.to_string().contains("two ends such as"), "{error}");
        }
    }
}
