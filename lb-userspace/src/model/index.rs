//! From addresses back to names: what the data plane reports is addresses, what people
//! know is frontends and servers.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::address::{Address4, Address6};

use super::{
    name::Name,
    snapshot::{Bind, Protocol, Snapshot},
    state::ServerId,
};

/// The names behind the addresses of one snapshot. Found by address and not by id, so an
/// id that was given to something else since can not lend a flow a wrong name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameIndex {
    frontends: HashMap<Bind, (Name, Name)>,
    servers: HashMap<(Name, SocketAddr), Name>,
}

impl NameIndex {
    /// Indexes `snapshot`.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let frontends = snapshot.l4_frontends().flat_map(|(name, frontend)| {
            frontend.bind.iter().map(|bind| (*bind, (name.clone(), frontend.backend.clone())))
        });
        let servers = snapshot.backends.iter().flat_map(|(backend, config)| {
            config
                .servers
                .iter()
                .filter_map(|(name, server)| Some((server.address.socket()?, name)))
                .map(|(address, name)| ((backend.clone(), address), name.clone()))
        });
        Self { frontends: frontends.collect(), servers: servers.collect() }
    }

    /// The frontend of a VIP.
    #[must_use]
    pub fn frontend(&self, address: SocketAddr, protocol: Protocol) -> Option<&Name> {
        self.frontends.get(&Bind { address, protocol }).map(|(frontend, _)| frontend)
    }

    /// The server at `server` behind a VIP.
    #[must_use]
    pub fn server(
        &self,
        vip: SocketAddr,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<ServerId> {
        let (_, backend) = self.frontends.get(&Bind { address: vip, protocol })?;
        let name = self.servers.get(&(backend.clone(), server))?;
        Some((backend.clone(), name.clone()))
    }
}

/// An IPv4 address out of its mapped form; any other address as it is.
#[must_use]
pub fn plain_address(common: Address6) -> IpAddr {
    IpAddr::from(common.octets).to_canonical()
}

/// An address in the form that maps of both families hold; the inverse of [`plain_address`].
#[must_use]
pub fn common_address(address: IpAddr) -> Address6 {
    match address {
        IpAddr::V4(address) => Address6::mapped(Address4::new(address.octets())),
        IpAddr::V6(address) => Address6::new(address.octets()),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let mapped = Address6::mapped(Address4::new([192, 0, 2, 7]));
        assert_eq!(plain_address(mapped).to_string(), "192.0.2.7");
        assert_eq!(common_address(plain_address(mapped)), mapped);
    }
}
