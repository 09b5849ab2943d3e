//! Bodies of `POST /v1/block` and `POST /v1/unblock`.

use std::{net::IpAddr, time::Duration};

use hyper::StatusCode;
use ipnet::IpNet;

use super::{
    api::{BlockSet, UnblockSet},
    command::{BlockOrder, UnblockOrder},
    routes::{Refusal, read_name},
};
use crate::model::{access::canonical, name::Name};

const HINT: &str = r#"send a JSON object such as {"source": "192.0.2.0/24", "for_s": 600, "frontend": "web", "reason": "scans"}; only source is needed"#;

pub(super) fn read_block(body: &[u8]) -> Result<BlockOrder, Refusal> {
    let set: BlockSet = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if let Some(time_s) = set.for_s
        && !(1..=BlockSet::MAX_SECONDS).contains(&time_s)
    {
        let most = BlockSet::MAX_SECONDS;
        return Err(bad(format!("for_s is {time_s}; it is from 1 to {most}, or left out")));
    }
    let reason = set.reason.unwrap_or_default();
    // It is shown on terminals and written to a file line by line.
    if reason.len() > BlockSet::MAX_REASON || reason.chars().any(char::is_control) {
        let most = BlockSet::MAX_REASON;
        return Err(bad(format!("the reason is one line of at most {most} bytes")));
    }
    Ok(BlockOrder {
        network: read_network(&set.source)?,
        frontend: read_frontend(set.frontend)?,
        time: set.for_s.map(Duration::from_secs),
        reason,
    })
}

pub(super) fn read_unblock(body: &[u8]) -> Result<UnblockOrder, Refusal> {
    let set: UnblockSet = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    Ok(UnblockOrder { network: read_network(&set.source)?, frontend: read_frontend(set.frontend)? })
}

pub(super) fn read_network(text: &str) -> Result<IpNet, Refusal> {
    let address = text.parse::<IpAddr>().map(IpNet::from).ok();
    let Some(network) = address.or_else(|| text.parse().ok()) else {
        return Err(bad(format!("'{text}' is neither an address nor a network")));
    };
    if network.trunc() != network {
        return Err(bad(format!(
            "'{text}' has bits behind its prefix; is {} meant?",
            network.trunc()
        )));
    }
    Ok(canonical(network))
}

pub(super) fn read_frontend(name: Option<String>) -> Result<Option<Name>, Refusal> {
    name.map(|name| read_name("frontend", &name)).transpose()
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    bad(format!("can not read the body: {error}"))
}

fn bad(error: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error, HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_with_what_is_left_out() {
        let order = read_block(br#"{"source": "192.0.2.7"}"#).unwrap();
        let network = "192.0.2.7/32".parse().unwrap();
        let reason = String::new();
        assert_eq!(order, BlockOrder { network, frontend: None, time: None, reason });
        let order = read_block(
            br#"{"source": "::ffff:10.0.0.0/104", "for_s": 60, "frontend": "web", "reason": "x"}"#,
        );
        let order = order.unwrap();
        assert_eq!(order.network, "10.0.0.0/8".parse().unwrap());
        assert_eq!((order.time, order.reason.as_str()), (Some(Duration::from_secs(60)), "x"));
        let order = read_unblock(br#"{"source": "2001:db8::/32"}"#).unwrap();
        assert_eq!(order.network, "2001:db8::/32".parse().unwrap());
    }

    #[test]
    fn hostile_orders_are_refused_with_a_hint() {
        for body in [
            "",
            "{}",
            r#"{"source": ""}"#,
            r#"{"source": "10.0.0.0/33"}"#,
            r#"{"source": "10.0.0.1/8"}"#,
            r#"{"source": "10.0.0.0/-1"}"#,
            r#"{"source": "example.com"}"#,
            r#"{"source": "fe80::1%eth0"}"#,
            r#"{"source": "10.0.0.1", "for_s": 0}"#,
            r#"{"source": "10.0.0.1", "for_s": 99999999999}"#,
            r#"{"source": "10.0.0.1", "reason": "a\nb"}"#,
            r#"{"source": "10.0.0.1", "frontend": "a/b"}"#,
            r#"{"source": "10.0.0.1", "unknown": 1}"#,
        ] {
            let refusal = read_block(body.as_bytes()).expect_err(body);
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(!refusal.body.hint.is_empty());
        }
        assert!(read_unblock(br#"{"source": "10.0.0.1", "for_s": 1}"#).is_err());
    }
}
