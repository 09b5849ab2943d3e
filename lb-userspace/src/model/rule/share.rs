//! Shares of clients: percentages and weights that give one client the same answer each time,
//! on every node and after a restart.
//!
//! A share is a place on a ring of 2^64 points, found by hashing what stands for the client.
//! The hash is fixed and public; it divides, it does not protect.

use std::net::IpAddr;

use hyper::http::HeaderName;
use lb_common::hash::mix;

use super::super::name::Name;

/// What stands for the client when a share of the clients is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareBy {
    /// Its address; of an IPv6 address the network (/64), of which one client uses many
    /// addresses.
    Client,
    /// A request header; the address of clients that do not send it.
    Header(HeaderName),
    /// A cookie; the address of clients that do not send it.
    Cookie(Box<str>),
    /// Nothing: each request on its own.
    Request,
}

/// Some of the clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Hundredths of a percent, 0 to 10,000.
    pub basis_points: u16,
    /// What stands for the client.
    pub by: ShareBy,
    /// Shares with different seeds are independent of each other.
    pub seed: Box<str>,
}

impl Share {
    /// The whole, in basis points.
    pub const WHOLE: u16 = 10_000;

    /// Whether the client with this hash is among them. Growing the share keeps everyone who
    /// was in it.
    #[must_use]
    pub fn holds(&self, hash: u64) -> bool {
        slice(hash, u32::from(Self::WHOLE)) < u32::from(self.basis_points)
    }
}

/// Backends by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Each backend with the sum of the weights up to and with its own; in the order of the
    /// file, the last one positive.
    parts: Vec<(Name, u32)>,
    /// What stands for the client.
    pub by: ShareBy,
    /// As [`Share::seed`].
    pub seed: Box<str>,
}

impl Split {
    /// Largest weight of one backend.
    pub const MAX_WEIGHT: u32 = 10_000;

    /// Backends with their weights. None if there is no positive weight.
    #[must_use]
    pub fn new(weights: Vec<(Name, u32)>, by: ShareBy, seed: Box<str>) -> Option<Self> {
        let mut sum = 0_u32;
        let parts = weights.into_iter().map(|(backend, weight)| {
            sum = sum.saturating_add(weight.min(Self::MAX_WEIGHT));
            (backend, sum)
        });
        let parts = parts.collect();
        (sum > 0).then_some(Self { parts, by, seed })
    }

    /// The backend for the client with this hash.
    #[must_use]
    pub fn pick(&self, hash: u64) -> &Name {
        let (last, total) = self.parts.last().expect("`new` refuses a split without a backend");
        let place = slice(hash, *total);
        self.parts.iter().find(|(_, sum)| place < *sum).map_or(last, |(backend, _)| backend)
    }

    /// Its backends.
    pub fn backends(&self) -> impl Iterator<Item = &Name> {
        self.parts.iter().map(|(backend, _)| backend)
    }
}

/// A place among `count`, from 0.
fn slice(hash: u64, count: u32) -> u32 {
    let place = (u128::from(hash) * u128::from(count)) >> 64;
    u32::try_from(place).unwrap_or_default()
}

/// The hash of a text that stands for a client.
#[must_use]
pub fn text_hash(text: &[u8], seed: &str) -> u64 {
    // FNV-1a, then mixed: its high bits alone are weak for short texts.
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = seed.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold);
    mix(text.iter().fold(mix(hash), fold))
}

/// The hash of a client's address.
#[must_use]
pub fn address_hash(address: IpAddr, seed: &str) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => text_hash(&address.octets(), seed),
        IpAddr::V6(address) => text_hash(&address.octets()[..8], seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::name;

    fn clients() -> impl Iterator<Item = IpAddr> {
        (0..10_000_u32).map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into())
    }

    fn share(basis_points: u16, seed: &str) -> Share {
        Share { basis_points, by: ShareBy::Client, seed: seed.into() }
    }

    #[test]
    fn a_share_has_its_size_and_grows_without_losing_anyone() {
        let (small, large) = (share(500, ""), share(1000, ""));
        let hashes: Vec<u64> = clients().map(|client| address_hash(client, "")).collect();
        let held = |share: &Share| hashes.iter().filter(|hash| share.holds(**hash)).count();
        assert!((400..600).contains(&held(&small)), "{}", held(&small));
        assert!((900..1100).contains(&held(&large)), "{}", held(&large));
        assert!(hashes.iter().all(|hash| !small.holds(*hash) || large.holds(*hash)));
        assert_eq!((held(&share(0, "")), held(&share(10_000, ""))), (0, 10_000));
    }

    #[test]
    fn seeds_make_shares_independent() {
        let both = clients().filter(|client| {
            share(5000, "a").holds(address_hash(*client, "a"))
                && share(5000, "b").holds(address_hash(*client, "b"))
        });
        let both = both.count();
        assert!((2300..2700).contains(&both), "{both}");
    }

    #[test]
    fn a_split_follows_its_weights() {
        let weights = vec![(name("blue"), 90), (name("none"), 0), (name("green"), 10)];
        let split = Split::new(weights, ShareBy::Client, "".into()).unwrap();
        let count = |backend: &str| {
            clients().filter(|c| split.pick(address_hash(*c, "")).as_str() == backend).count()
        };
        assert!((900..1100).contains(&count("green")), "{}", count("green"));
        assert_eq!((count("none"), count("green") + count("blue")), (0, 10_000));
        assert_eq!(Split::new(vec![(name("a"), 0)], ShareBy::Client, "".into()), None);
        assert_eq!(split.pick(u64::MAX).as_str(), "green");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let hash = |text: &str| address_hash(text.parse().unwrap(), "");
        assert_eq!(hash("2001:db8::1"), hash("2001:db8::ffff:1"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
        assert_eq!(hash("::ffff:10.0.0.1"), hash("10.0.0.1"));
    }
}
