//! Opening a flow: its two half-open entries and the source port towards the server.
//!
//! The port's candidates are a pure function of the flow (`lb_common::ports`), so a lost
//! entry, or another node, finds the same port again. A candidate is claimed by inserting
//! the reply entry with `BPF_NOEXIST` and confirmed by its absence from the other table, in
//! that order: a flow on its way from one table to the other is always in at least one.

use lb_common::{
    address::{Address, Be16},
    checksum,
    drop_reason::DropReason,
    flow::{Direction, FlowEntry, FlowKey, Handle, Hop},
    ports::{self, PortRange},
    server::ServerEntry,
};

use crate::{
    family::{Draft, Family},
    maps::SETTINGS,
    parse::Segment,
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = 17;

/// What is known of a flow that is being opened.
pub struct Opening {
    /// The VIP it comes through.
    pub vip: Handle,
    /// The server selected.
    pub server: Handle,
    /// Where the client's packet came from.
    pub client_hop: Hop,
    /// The present, nanoseconds.
    pub now_ns: u64,
    /// Hash of the tuple.
    pub hash: u64,
    /// First bits of the TCP progress.
    pub progress: u32,
}

/// Claims a port and writes both entries to the half-open table; `pair.forward` is then
/// how the packet is rewritten.
///
/// # Errors
/// Why the flow can not be opened; nothing is left behind.
#[inline(always)]
pub fn track<F: Family>(
    segment: &Segment<F>,
    server: &ServerEntry,
    opening: &Opening,
    pair: &mut Draft<F::Address>,
) -> Result<(), DropReason> {
    let settings = SETTINGS.get(0).ok_or(DropReason::Internal)?;
    let range = PortRange::new(settings.snat_port_low, settings.snat_port_high)
        .ok_or(DropReason::Internal)?;
    build(segment, server, opening, pair);
    pair.reply_key = pair.forward.partner_key();
    for attempt in 0..ports::PROBES {
        let port = ports::candidate(range, segment.key.source_port.get(), opening.hash, attempt);
        pair.reply_key.destination_port = Be16::new(port);
        finish(segment, pair);
        if !claim::<F>(&pair.reply_key, &pair.reply)? {
            continue;
        }
        if F::half_open().insert(&segment.key, &pair.forward, BPF_ANY).is_err() {
            let _absent = F::half_open().remove(&pair.reply_key);
            return Err(DropReason::HalfOpenTableFull);
        }
        return Ok(());
    }
    Err(DropReason::PortsExhausted)
}

/// Fills in all that does not depend on the port.
#[inline(always)]
fn build<F: Family>(
    segment: &Segment<F>,
    server: &ServerEntry,
    opening: &Opening,
    pair: &mut Draft<F::Address>,
) {
    let common = |entry: &mut FlowEntry<F::Address>, direction: Direction| {
        entry.last_seen_ns = opening.now_ns;
        entry.created_ns = opening.now_ns;
        entry.client_hop = opening.client_hop;
        entry.server = opening.server;
        entry.vip = opening.vip;
        entry.progress = opening.progress;
        entry.direction = direction.to_raw();
        entry.protocol = segment.key.protocol;
        entry.padding = [0; 2];
    };
    let forward = &mut pair.forward;
    common(forward, Direction::Forward);
    forward.packets = 1;
    forward.bytes = segment.bytes;
    forward.source = F::Address::from_common(server.snat_address);
    forward.destination = F::Address::from_common(server.address);
    forward.source_port = segment.key.source_port;
    forward.destination_port = server.port;
    let reply = &mut pair.reply;
    common(reply, Direction::Reply);
    reply.packets = 0;
    reply.bytes = 0;
    reply.source = segment.key.destination;
    reply.destination = segment.key.source;
    reply.source_port = segment.key.destination_port;
    reply.destination_port = segment.key.source_port;
    reply.header_delta = 0;
    reply.transport_delta = 0;
}

/// Fills in the candidate port and the checksum differences that follow from it.
#[inline(always)]
fn finish<F: Family>(segment: &Segment<F>, pair: &mut Draft<F::Address>) {
    pair.forward.source_port = pair.reply_key.destination_port;
    let deltas = checksum::translation_deltas(&segment.key, &pair.forward.rewritten());
    pair.forward.header_delta = deltas.header;
    pair.forward.transport_delta = deltas.transport;
    // The way back undoes the way there: the ones'-complement negative.
    pair.reply.header_delta = !deltas.header;
    pair.reply.transport_delta = !deltas.transport;
}

/// Takes a reply tuple for this flow; false if another flow has it.
#[inline(always)]
fn claim<F: Family>(
    reply_key: &FlowKey<F::Address>,
    reply: &FlowEntry<F::Address>,
) -> Result<bool, DropReason> {
    match F::half_open().insert(reply_key, reply, BPF_NOEXIST) {
        Ok(()) => {}
        Err(error) if error == -EEXIST => {
            // SAFETY: the entry stays mapped for the run of the program.
            let taken = F::half_open()
                .get_ptr_mut(reply_key)
                .is_some_and(|holder| !same_client(unsafe { &*holder }, reply));
            if taken {
                return Ok(false);
            }
            // A stale half of this very flow: taken over.
            F::half_open()
                .insert(reply_key, reply, BPF_ANY)
                .map_err(|_| DropReason::HalfOpenTableFull)?;
            return Ok(true);
        }
        Err(_) => return Err(DropReason::HalfOpenTableFull),
    }
    let Some(holder) = F::flows().get_ptr_mut(reply_key) else {
        return Ok(true);
    };
    // SAFETY: the entry stays mapped for the run of the program.
    if same_client(unsafe { &*holder }, reply) {
        // A stale half of this very flow; its other half is gone or we would not be here.
        let _absent = F::flows().remove(reply_key);
        return Ok(true);
    }
    let _absent = F::half_open().remove(reply_key);
    Ok(false)
}

/// Whether two reply entries lead to the same client through the same VIP.
#[inline(always)]
fn same_client<A: Address>(a: &FlowEntry<A>, b: &FlowEntry<A>) -> bool {
    a.destination == b.destination
        && a.destination_port == b.destination_port
        && a.source == b.source
        && a.source_port == b.source_port
}
