//! `POST /v1/trace`: packets of the data plane as they pass, with what became of them. The answer
//! is records as the data plane writes them (`lb_common::trace`), until either end has had
//! enough.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use hyper::StatusCode;
use lb_common::{
    address::{Address6, Be16},
    trace::{ENDS, End, Filter, MOST_BYTES},
};
use serde::{Deserialize, Serialize};

use super::routes::Refusal;
use crate::model::snapshot::Protocol;

const HINT: &str = r#"send a JSON object such as {"ends": [{"address": "10.0.0.100", "port": 80}], "protocol": "tcp", "sample": 1, "snaplen": 256, "duration_s": 60}"#;

/// Which packets to show, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceOrder {
    /// What ends of a packet must be, [`ENDS`] conditions at most; each holds of the packet as it
    /// came or as it was sent on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<TraceEnd>,
    /// Only packets of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Look at one packet in so many.
    pub sample: u32,
    /// Bytes to keep of each packet.
    pub snaplen: u32,
    /// Seconds until the answer ends.
    pub duration_s: u64,
}

/// One end of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceEnd {
    /// Its address; none for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port; none for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl TraceOrder {
    /// Fewest bytes to keep: the Ethernet header.
    pub const LEAST_SNAPLEN: u32 = 14;
    /// Most bytes to keep.
    #[expect(clippy::cast_possible_truncation, reason = "a packet is short")]
    pub const MOST_SNAPLEN: u32 = MOST_BYTES as u32;
    /// Longest time.
    pub const MOST_SECONDS: u64 = 86_400;

    /// How long packets are shown.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_secs(self.duration_s)
    }

    /// What the data plane is told; `now`: its clock.
    #[must_use]
    pub fn filter(&self, now: Duration) -> Filter {
        let mut ends = [End::default(); ENDS];
        for (end, wanted) in ends.iter_mut().zip(&self.ends) {
            *end = End {
                address: wanted.address.map(common).unwrap_or_default(),
                port: Be16::new(wanted.port.unwrap_or(0)),
                padding: [0; 6],
            };
        }
        let until = now.saturating_add(self.duration());
        Filter {
            ends,
            sample: self.sample,
            snap: self.snaplen,
            until_ns: u64::try_from(until.as_nanos()).unwrap_or(u64::MAX),
            protocol: self.protocol.map_or(0, Protocol::number),
            padding: [0; 7],
        }
    }
}

/// The form of an address that both families share.
fn common(address: IpAddr) -> Address6 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Address6::new(Ipv6Addr::octets(&address))
}

pub(super) fn read_trace(body: &[u8]) -> Result<TraceOrder, Refusal> {
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error, HINT);
    let order: TraceOrder = serde_json::from_slice(body)
        .map_err(|error| bad(format!("can not read the body: {error}")))?;
    let within = |what: &str, value: u64, least: u64, most: u64| match value {
        value if (least..=most).contains(&value) => Ok(()),
        value => Err(bad(format!("{what} is {value}, but has to be {least} to {most}"))),
    };
    within("the number of ends", order.ends.len() as u64, 0, ENDS as u64)?;
    within("sample", order.sample.into(), 1, u32::MAX.into())?;
    let (least, most) = (TraceOrder::LEAST_SNAPLEN, TraceOrder::MOST_SNAPLEN);
    within("snaplen", order.snaplen.into(), least.into(), most.into())?;
    within("duration_s", order.duration_s, 1, TraceOrder::MOST_SECONDS)?;
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"ends": [{"address": "10.0.0.100", "port": 80}, {"port": 4000}], "protocol": "udp", "sample": 16, "snaplen": 128, "duration_s": 5}"#;

    #[test]
    fn an_order_becomes_a_filter() {
        let order = read_trace(GOOD.as_bytes()).expect("a good order");
        let filter = order.filter(Duration::from_nanos(7));
        let vip = common("::ffff:10.0.0.100".parse().expect("an address"));
        let expected = [
            End { address: vip, port: Be16::new(80), padding: [0; 6] },
            End { port: Be16::new(4000), ..End::default() },
            End::default(),
        ];
        assert_eq!(filter.ends, expected);
        assert_eq!((filter.protocol, filter.sample, filter.snap), (17, 16, 128));
        assert_eq!(filter.until_ns, 5_000_000_007);
    }

    #[test]
    fn the_command_line_says_what_the_agent_reads() {
        let order = read_trace(GOOD.as_bytes()).expect("a good order");
        let sent = serde_json::to_vec(&order).expect("it has a form");
        assert_eq!(read_trace(&sent), Ok(order));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_name() {
        for (from, to, name) in [
            (r#""sample": 16"#, r#""sample": 0"#, "sample"),
            (r#""snaplen": 128"#, r#""snaplen": 13"#, "snaplen"),
            (r#""snaplen": 128"#, r#""snaplen": 2048"#, "snaplen"),
            (r#""duration_s": 5"#, r#""duration_s": 86401"#, "duration_s"),
            (r#"{"port": 4000}"#, "{}, {}, {}", "number of ends"),
            (r#""sample": 16, "#, "", "sample"),
            (r#""udp""#, r#""icmp""#, "icmp"),
        ] {
            let body = GOOD.replace(from, to);
            let refusal = read_trace(body.as_bytes()).expect_err("is refused");
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
            assert!(refusal.body.error.contains(name), "{name}: {}", refusal.body.error);
        }
    }
}
