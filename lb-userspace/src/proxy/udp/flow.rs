//! One flow: what it holds while it lasts, and what it comes to.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use lb_common::{
    address::Be16, counters::TrafficCounters, event::FlowEnd, flow::Handle, tcp_state::Progress,
};
use socket2::SockRef;
use tokio_util::sync::CancellationToken;

use super::{plan::Site, room::Stay};
use crate::{
    balance::{Done, Lease, Teller},
    model::{flow, index::common_address, snapshot::Protocol},
    proxy::{limits::Admission, tcp::reach::Counted, traffic::Traffic},
};

/// A flow. All that it holds is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Flow {
    /// Connected to the server.
    pub(super) socket: OwnedFd,
    /// The VIP as it was when the flow began.
    pub(super) site: Arc<Site>,
    /// The place at the server.
    pub(super) lease: Lease,
    /// Cancelled when the server is dead.
    pub(super) ending: CancellationToken,
    /// What the server has carried.
    pub(super) traffic: Arc<Traffic>,
    /// The rules it was last judged by ([`super::super::gate::Gate::generation`]).
    pub(super) judged: u64,
    pub(super) stay: Stay,
    pub(super) _admission: Admission,
    pub(super) _counted: Counted,
    /// Nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub(super) created_ns: u64,
    /// What it has carried itself.
    pub(super) carried: Carried,
}

/// What a flow has carried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub(super) forward_packets: u64,
    pub(super) forward_bytes: u64,
    pub(super) reply_packets: u64,
    pub(super) reply_bytes: u64,
}

impl Flow {
    /// The server.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.lease.server().address().socket()
    }

    /// Counts datagrams to the server.
    pub(super) fn count_forward(&mut self, teller: Teller, packets: u64, bytes: u64) {
        self.carried.forward_packets += packets;
        self.carried.forward_bytes += bytes;
        let more = TrafficCounters {
            forward_packets: packets,
            forward_bytes: bytes,
            ..TrafficCounters::default()
        };
        self.count(teller, &more);
    }

    /// Counts datagrams from the server.
    pub(super) fn count_reply(&mut self, teller: Teller, packets: u64, bytes: u64) {
        self.carried.reply_packets += packets;
        self.carried.reply_bytes += bytes;
        let more = TrafficCounters {
            reply_packets: packets,
            reply_bytes: bytes,
            ..TrafficCounters::default()
        };
        self.count(teller, &more);
    }

    /// Counts for the VIP and the server.
    pub(super) fn count(&self, teller: Teller, more: &TrafficCounters) {
        self.site.traffic.add(teller, more);
        self.traffic.add(teller, more);
    }

    /// Counts the flow itself, which is over.
    pub(super) fn count_end(&self, teller: Teller) {
        let done = Done {
            status: None,
            bytes_in: self.carried.forward_bytes,
            bytes_out: self.carried.reply_bytes,
            retries: 0,
            fault: None,
        };
        self.site.counters.count(teller, &done);
        self.site.backend.pool.counters().count(teller, &done);
        self.lease.server().counters().count(teller, &done);
    }

    /// Its line in the access log, as the data plane would report it; `cause` is one of
    /// [`lb_common::event::cause`].
    pub(super) fn record(&self, client: SocketAddr, ended_ns: u64, cause: u8) -> FlowEnd {
        let vip = self.site.vip.address;
        let server = self.server().unwrap_or(UNKNOWN);
        FlowEnd {
            created_ns: self.created_ns,
            ended_ns,
            forward_packets: self.carried.forward_packets,
            forward_bytes: self.carried.forward_bytes,
            reply_packets: self.carried.reply_packets,
            reply_bytes: self.carried.reply_bytes,
            client: common_address(client.ip()),
            vip_address: common_address(vip.ip()),
            server_address: common_address(server.ip()),
            client_port: Be16::new(client.port()),
            vip_port: Be16::new(vip.port()),
            server_port: Be16::new(server.port()),
            snat_port: Be16::new(self.local().port()),
            protocol: Protocol::Udp.number(),
            cause,
            ..FlowEnd::default()
        }
    }

    /// As the operator sees it.
    pub(super) fn view(
        &self,
        client: SocketAddr,
        (last_ns, is_replied): (u64, bool),
    ) -> flow::Flow {
        flow::Flow {
            protocol: Protocol::Udp.number(),
            client,
            vip: self.site.vip.address,
            server: self.server().unwrap_or(UNKNOWN),
            snat: self.local(),
            vip_handle: Handle::default(),
            server_handle: Handle::default(),
            progress: Progress(0),
            confirmed: is_replied,
            created_ns: self.created_ns,
            last_seen_ns: last_ns,
            forward_packets: self.carried.forward_packets,
            forward_bytes: self.carried.forward_bytes,
            reply_packets: self.carried.reply_packets,
            reply_bytes: self.carried.reply_bytes,
        }
    }

    /// The client as the server sees it.
    fn local(&self) -> SocketAddr {
        let local = SockRef::from(&self.socket).local_addr().ok();
        local.and_then(|local| local.as_socket()).unwrap_or(UNKNOWN)
    }
}

const UNKNOWN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
