//! Datagrams from clients to servers, and back.

use std::{io, net::SocketAddr, ops::Range, sync::Arc, time::Instant};

use lb_common::{drop_reason::DropReason, event::cause};

use super::{
    batch::BATCH,
    open::reason_of,
    plan::Site,
    table::{Id, Key, Queue},
    worker::{Engine, Host, Replies},
};
use crate::balance::Outcome;

impl Engine {
    /// Brings what waits at a VIP to servers.
    pub(super) fn take_from_clients(&mut self, vip: u32, host: &Host<'_>) {
        let Some(Some(known)) = self.vips.get(vip as usize) else { return };
        let site = Arc::clone(&known.site);
        // Errors of a socket that is not connected are of replies that did not arrive.
        let Ok(count) = self.inward.receive(&known.socket, 0) else { return };
        let mut first = 0;
        while first < count {
            let Some(client) = self.inward.address(first) else {
                first += 1;
                continue;
            };
            let is_next = |place: &usize| self.inward.address(*place) == Some(client);
            let places = first..first + (first..count).take_while(is_next).count();
            first = places.end;
            let key = Key { client, vip };
            let rest = match self.within_rate(&site, client, places) {
                Ok(places) => self.forward(key, &site, places, host),
                Err(rest) => Some(rest),
            };
            if let Some((reason, count)) = rest {
                (0..count).for_each(|_| site.gate.count(reason));
            }
        }
    }

    /// Those datagrams of a client that it may send.
    fn within_rate(
        &self,
        site: &Site,
        client: SocketAddr,
        places: Range<usize>,
    ) -> Result<Range<usize>, (DropReason, usize)> {
        if client.port() == 0 || client == site.vip.address {
            return Err((DropReason::BadSource, places.len()));
        }
        let entry = site.gate.entry();
        if entry.packet_interval_ns == 0 {
            return Ok(places);
        }
        let may = |_: &usize| site.gate.packet(&entry, client.ip()).is_ok();
        let passed = places.clone().take_while(may).count();
        let kept = places.start..places.start + passed;
        let held_back = places.len() - passed;
        (0..held_back).for_each(|_| site.gate.count(DropReason::PacketRate));
        Ok(kept)
    }

    /// Brings datagrams of one client to its server. Those that were not sent, and why.
    fn forward(
        &mut self,
        key: Key,
        site: &Arc<Site>,
        mut places: Range<usize>,
        host: &Host<'_>,
    ) -> Option<(DropReason, usize)> {
        // A server that refuses has ended the flow: the next one may have another.
        for _ in 0..2 {
            if places.start >= places.end {
                return None;
            }
            let id = match self.enter(key, site, host) {
                Ok(id) => id,
                Err(reason) => return Some((reason, places.len())),
            };
            let error = self.send(id, &mut places, host)?;
            if error.kind() != io::ErrorKind::ConnectionRefused {
                let reason = reason_of(&error);
                // What the socket has no room for is lost, and the kernel counts it.
                return (reason != DropReason::PortsExhausted).then_some((reason, places.len()));
            }
            self.refuse(id, host);
        }
        Some((DropReason::NoServer, places.len()))
    }

    /// The flow of a client: the one it has, or a new one.
    fn enter(&mut self, key: Key, site: &Arc<Site>, host: &Host<'_>) -> Result<Id, DropReason> {
        let Some(id) = self.table.find(&key) else { return self.open(key, site, host) };
        let Some(flow) = self.table.get_mut(id) else { return self.open(key, site, host) };
        if flow.ending.is_cancelled() {
            self.end(id, cause::SERVER_DOWN, host);
            return self.open(key, site, host);
        }
        let generation = site.gate.generation();
        if flow.judged != generation {
            site.gate.judge(Some(key.client.ip()))?;
            flow.judged = generation;
        }
        Ok(id)
    }

    /// Sends datagrams by a flow's socket; takes those out of `places` that were. The error, if
    /// there are others.
    fn send(&mut self, id: Id, places: &mut Range<usize>, host: &Host<'_>) -> Option<io::Error> {
        let flow = self.table.get_mut(id)?;
        let mut error = None;
        let first = places.start;
        while places.start < places.end && error.is_none() {
            match self.inward.send(&flow.socket, places.clone(), true) {
                Ok(0) => break,
                Ok(sent) => places.start += sent,
                Err(why) => error = Some(why),
            }
        }
        let sent = first..places.start;
        if sent.start < sent.end {
            let bytes = self.inward.length(sent.clone());
            flow.count_forward(host.teller, sent.len() as u64, bytes);
            self.table.touch(id, false, host.now_ns);
        }
        error
    }

    /// Takes what a server has sent, to be brought to its client by [`Self::flush`].
    pub(super) fn take_from_server(
        &mut self,
        id: Id,
        client: SocketAddr,
        vip: u32,
        host: &Host<'_>,
    ) {
        if self.replies.vip != vip || self.replies.count == BATCH {
            self.flush();
            self.replies.vip = vip;
        }
        let Some((_, queue)) = self.table.seen(id) else { return };
        let Some(flow) = self.table.get_mut(id) else { return };
        let first = self.replies.count;
        let count = match self.replies.batch.receive(&flow.socket, first) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return self.refuse(id, host);
            }
            Err(_) => return,
        };
        let generation = flow.site.gate.generation();
        if flow.judged != generation {
            if let Err(reason) = flow.site.gate.judge(Some(client.ip())) {
                (0..count).for_each(|_| flow.site.gate.count(reason));
                return;
            }
            flow.judged = generation;
        }
        let places = first..first + count;
        if queue == Queue::Unreplied {
            flow.stay.reply();
            flow.lease.report(Outcome::Success, Instant::now());
        }
        let bytes = self.replies.batch.length(places.clone());
        flow.count_reply(host.teller, count as u64, bytes);
        self.replies.batch.address_to(places.clone(), client);
        self.replies.count = places.end;
        self.table.touch(id, true, host.now_ns);
    }

    /// Brings replies to clients.
    pub(super) fn flush(&mut self) {
        let Replies { batch, vip, count } = &mut self.replies;
        let mut places = 0..std::mem::take(count);
        let Some(Some(vip)) = self.vips.get(*vip as usize) else { return };
        while places.start < places.end {
            match batch.send(&vip.socket, places.clone(), false) {
                Ok(0) => return,
                Ok(sent) => places.start += sent,
                // The rest is lost: there is no room for it.
                Err(error) if reason_of(&error) == DropReason::PortsExhausted => return,
                // This one is lost: its client can not be reached, or not so.
                Err(_) => places.start += 1,
            }
        }
    }

    /// A server has said that nobody listens (ICMP port unreachable): the flow is over.
    fn refuse(&mut self, id: Id, host: &Host<'_>) {
        let is_unreplied = matches!(self.table.seen(id), Some((_, Queue::Unreplied)));
        if let Some(flow) = self.table.get_mut(id).filter(|_| is_unreplied) {
            flow.lease.report(Outcome::Failure, Instant::now());
        }
        self.end(id, cause::SERVER_RESET, host);
    }
}
