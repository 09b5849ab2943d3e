//! Checks that travel as their server's traffic does: which way that is, and who sends their
//! packets there.

use std::{error::Error, fmt, net::IpAddr, os::fd::BorrowedFd};

use crate::model::{
    frontend::Forward,
    name::Name,
    snapshot::{Snapshot, Via},
};

/// The way of a server's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The server.
    pub server: IpAddr,
    /// What its packets are addressed to, of its family.
    pub vip: IpAddr,
    /// How they reach it; never [`Forward::Nat`].
    pub forward: Forward,
    /// The port that [`Forward::Gue`] sends to.
    pub gue_port: u16,
}

impl Way {
    /// The way to a server of a backend, if its check is to go there: by the first VIP of the
    /// server's family of the first frontend, by name, that has one. The connection is with the
    /// server's own address all the same, as far as the kernel knows.
    #[must_use]
    pub fn to(server: IpAddr, backend: &Name, snapshot: &Snapshot) -> Option<Self> {
        let check = snapshot.backends.get(backend)?.check.as_ref()?;
        if check.via != Via::Vip || snapshot.is_in_user_space() {
            return None;
        }
        snapshot.l4_frontends().find_map(|(_, frontend)| {
            let is_ours = frontend.backend == *backend && frontend.forward.is_one_way();
            let mut vips = frontend.bind.iter().map(|bind| bind.address.ip());
            let vip = vips.find(|vip| is_ours && vip.is_ipv4() == server.is_ipv4())?;
            let (forward, gue_port) = (frontend.forward, snapshot.datapath.gue_port);
            Some(Self { server, vip, forward, gue_port })
        })
    }
}

/// Who sends the packets of checks the way of traffic.
pub trait AsTraffic: fmt::Debug + Send + Sync {
    /// From now on the packets of a socket, which is to be connected with [`Way::server`], go
    /// that way.
    ///
    /// # Errors
    /// If they can not.
    fn send(&self, socket: BorrowedFd<'_>, way: &Way) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// No check goes such a way at present.
    fn rest(&self);
}

/// The way of one check, and who sends it there.
pub type Detour<'a> = Option<(&'a Way, &'a dyn AsTraffic)>;
