//! What hashing algorithms hash: fixed functions, so that every node, and a node after its
//! restart, sends the same request to the same server.
//!
//! A client's address and a connection hash as in the data plane (`lb_common::hash`), so a
//! proxy and a layer-4 frontend over the same servers agree. The seeds are public: who
//! chooses URIs can choose servers, which is what `load_factor` bounds.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    address::{Address, Address4, Address6, Be16},
    flow::FlowKey,
    hash, maglev,
};

use crate::model::snapshot::Protocol;

/// The hash of a client's address.
#[must_use]
pub fn of_source(client: IpAddr) -> u64 {
    let client = SocketAddr::new(client.to_canonical(), 0);
    match client.ip() {
        IpAddr::V4(ip) => hash::source_hash(&flow(Address4::new(ip.octets()), client, client)),
        IpAddr::V6(ip) => hash::source_hash(&flow(Address6::new(ip.octets()), client, client)),
    }
}

/// The hash of a TCP connection from `client` to `local`.
#[must_use]
pub fn of_connection(client: SocketAddr, local: SocketAddr) -> u64 {
    of_flow(client, local, Protocol::Tcp)
}

/// The hash of a flow from `client` to `local`.
#[must_use]
pub fn of_flow(client: SocketAddr, local: SocketAddr, protocol: Protocol) -> u64 {
    match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut key = flow(Address4::new(from.octets()), client, local);
            key.destination = Address4::new(to.octets());
            key.protocol = protocol.number();
            hash::tuple_hash(&key)
        }
        // A client behind a trusted proxy may be of another family than that one's connection.
        (from, to) => {
            let mut key = flow(Address6::new(octets(from)), client, local);
            key.destination = Address6::new(octets(to));
            key.protocol = protocol.number();
            hash::tuple_hash(&key)
        }
    }
}

/// The hash of bytes of a request: a path, a header's value.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> u64 {
    let start = hash::mix(BYTES_SEED ^ bytes.len() as u64);
    bytes.chunks(8).fold(start, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash::mix(sum ^ u64::from_le_bytes(word))
    })
}

/// The seed of a server on a ring whose address is the path of a unix socket.
#[must_use]
pub fn of_path(path: &str) -> u64 {
    let hash = of_bytes(path.as_bytes());
    // Those of IP addresses have as many bits; two halves serve for the address.
    let mut halves = [0; 16];
    halves[..8].copy_from_slice(&hash.to_be_bytes());
    halves[8..].copy_from_slice(&hash::mix(hash).to_be_bytes());
    maglev::member_seed(&Address6::new(halves), 0)
}

/// Keeps hashes of bytes apart from those of addresses: the square root of 11.
const BYTES_SEED: u64 = 0x510e_527f_ade6_82d1;

/// A key with `source` at both ends.
fn flow<A: Address>(source: A, client: SocketAddr, local: SocketAddr) -> FlowKey<A> {
    FlowKey {
        source,
        destination: source,
        source_port: Be16::new(client.port()),
        destination_port: Be16::new(local.port()),
        protocol: Protocol::Tcp.number(),
        padding: [0; 3],
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_mapped_address_hashes_as_the_address_itself() {
        let plain: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(of_source(plain), of_source("::ffff:192.0.2.7".parse().unwrap()));
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:999".parse().unwrap();
        let local = "10.0.0.1:80".parse().unwrap();
        assert_eq!(of_connection(SocketAddr::new(plain, 999), local), of_connection(mapped, local));
    }

    /// Changing these values moves every client of every user to another server.
    #[test]
    fn hashes_never_change_between_versions() {
        assert_eq!(of_bytes(b""), hash::mix(BYTES_SEED));
        assert_eq!(of_bytes(b"/index.html"), FIXED_PATH);
        assert_eq!(of_source("192.0.2.7".parse().unwrap()), FIXED_SOURCE);
    }
    const FIXED_PATH: u64 = 16871204900499242327;
    const FIXED_SOURCE: u64 = 5557991752485286696;

    #[test]
    fn bytes_that_differ_anywhere_hash_differently() {
        let texts = ["", "a", "b", "aa", "a\0", "abcdefgh", "abcdefgh\0", "abcdefghi", "bbcdefghi"];
        let hashes: HashSet<u64> = texts.iter().map(|text| of_bytes(text.as_bytes())).collect();
        assert_eq!(hashes.len(), texts.len());
        assert_ne!(
            of_source("192.0.2.7".parse().unwrap()),
            of_source("192.0.2.8".parse().unwrap())
        );
    }

    #[test]
    fn seeds_of_paths_are_told_apart() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..1000).map(|number| of_path(&format!("/run/app/{number}.sock"))).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
