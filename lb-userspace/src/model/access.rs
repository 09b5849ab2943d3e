//! Who may be a client: lists of networks, limits of a source of layer 4, what is blocked.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::name::Name;

/// Networks that may come in and networks that may not, of the node or of a frontend. The
/// longest prefix decides; one that is on both lists is denied. If anything is allowed, what
/// is on neither list is not let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// In canonical form ([`canonical`]), in order, without repetition.
    pub allow: Arc<[IpNet]>,
    /// The same.
    pub deny: Arc<[IpNet]>,
}

impl AccessList {
    /// The lists of these networks.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow: in_order(allow), deny: in_order(deny) }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Every network of it.
    pub fn networks(&self) -> impl Iterator<Item = &IpNet> {
        self.allow.iter().chain(self.deny.iter())
    }

    /// The first network that is on both lists.
    #[must_use]
    pub fn contradiction(&self) -> Option<&IpNet> {
        self.allow.iter().find(|network| self.deny.binary_search(network).is_ok())
    }
}

fn in_order(networks: Vec<IpNet>) -> Arc<[IpNet]> {
    let mut networks: Vec<IpNet> = networks.into_iter().map(canonical).collect();
    networks.sort_unstable();
    networks.dedup();
    networks.into()
}

/// A network without bits behind its prefix; an IPv4 network in IPv6 form is an IPv4 one.
#[must_use]
pub fn canonical(network: IpNet) -> IpNet {
    let mapped = |network: ipnet::Ipv6Net| {
        let address = network.addr().to_ipv4_mapped()?;
        Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
    };
    match network {
        IpNet::V6(six) => mapped(six).map_or(network, IpNet::V4).trunc(),
        IpNet::V4(_) => network.trunc(),
    }
}

/// What a frontend of layer 4 takes from one source: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Most confirmed flows at a time; none for no limit.
    pub flows: Option<u32>,
    /// New flows.
    pub flow_rate: Option<RateLimit>,
    /// Packets.
    pub packet_rate: Option<RateLimit>,
}

impl SourceLimits {
    /// The highest limit of flows.
    pub const MAX_FLOWS: u32 = 1_000_000;
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// On average; from 1.
    pub per_second: u32,
    /// At once; from 1.
    pub burst: u32,
}

impl RateLimit {
    /// The highest rate: what the data plane's buckets can count.
    pub const MAX_PER_SECOND: u32 = lb_common::token_bucket::MAX_PER_SECOND;
    /// The highest burst.
    pub const MAX_BURST: u32 = 1_000_000_000;
}

/// What the operator blocks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// For one frontend; none for all.
    pub frontend: Option<Name>,
    /// In canonical form.
    pub network: IpNet,
    /// Until when, seconds of `CLOCK_MONOTONIC`; 0 until it is taken back.
    pub expires_s: u32,
}

/// A network in a scope ([`lb_common::access`]): what `ACCESS4` and `ACCESS6` have a rule for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Whose list it is on.
    pub scope: u32,
    /// In canonical form.
    pub network: IpNet,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn lists_are_in_canonical_form_and_say_nothing_twice() {
        let given =
            networks(&["10.1.2.3/8", "::ffff:10.0.0.0/104", "2001:db8::1/32", "10.0.0.0/8"]);
        let list = AccessList::new(given, Vec::new());
        assert_eq!(*list.allow, *networks(&["10.0.0.0/8", "2001:db8::/32"]));
        assert_eq!(list.contradiction(), None);
        assert!(!list.is_empty() && AccessList::default().is_empty());
    }

    #[test]
    fn a_network_on_both_lists_is_found_and_one_within_another_is_none() {
        let allow = networks(&["10.1.0.0/16", "192.0.2.0/24"]);
        let list = AccessList::new(allow, networks(&["10.0.0.0/8", "192.0.2.0/24"]));
        assert_eq!(list.contradiction(), Some(&"192.0.2.0/24".parse().unwrap()));
    }
}
