//! Opening a flow: its place in the half-open table and the source port towards the server.
//!
//! The port's candidates are a pure function of the flow (`lb_common::ports`), so a lost
//! entry, or another node, finds the same port again. A candidate is claimed by taking the
//! place of its tuple in the half-open table and confirmed by its absence from the table of
//! confirmed flows, in that order: a flow on its way from one table to the other is always
//! in at least one. A one-way flow has no port of its own and takes the place that is its
//! tuple's. With half NAT the source address is the client's, and so is the port unless that
//! very tuple is another flow's.

use lb_common::{
    address::{Address, Be16},
    checksum,
    drop_reason::DropReason,
    flow::{Handle, Hop},
    half_open::HalfOpenFlow,
    ports::{self, PortRange},
    server::ServerEntry,
    settings::Settings,
    tcp_state::Progress,
};

use crate::{
    confirmed::{self, Guard},
    family::{Family, V4, V6},
    half_open::{self, Claim, Now},
    maps::{Draft, SETTINGS},
    parse::Segment,
    words,
};

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
    /// The cookie and the sequence number of the client's SYN; zeros without a cookie.
    pub numbers: (u32, u32),
    /// The server sees the client's address.
    pub keeps_source: bool,
}

/// How the opening went.
pub enum Opened {
    /// The flow is in the half-open table as it is in the draft.
    New,
    /// The flow is there already, in either table, and the packet had not found it: its hint was
    /// overwritten, or it came into being meanwhile.
    Known,
}

/// Claims a port, if the flow needs one, and writes the flow to the half-open table.
///
/// # Errors
/// Why the flow can not be opened; nothing is left behind.
#[inline(always)]
pub fn track<F: Family>(
    segment: &Segment<F>,
    server: &ServerEntry,
    opening: &Opening,
    draft: &mut Draft<F::Address>,
) -> Result<Opened, DropReason> {
    begin(segment, server, opening, &mut draft.flow);
    for attempt in 0..ports::PROBES {
        match F::try_port(attempt, opening.hash, opening.now_ns) {
            TAKEN => {}
            GRANTED => return Ok(Opened::New),
            KNOWN => return Ok(Opened::Known),
            BUSY => return Err(DropReason::Busy),
            _ => return Err(DropReason::Internal),
        }
    }
    Err(DropReason::PortsExhausted)
}

/// The port is another flow's.
const TAKEN: u32 = 0;
/// The flow has the port and its place.
const GRANTED: u32 = 1;
/// The flow is there already.
const KNOWN: u32 = 2;
/// What can not be.
const FAILED: u32 = 3;
/// A lock can not be had.
const BUSY: u32 = 4;

// BPF functions of their own, without packet pointers, so that the verifier walks an attempt
// once and not once for each.

/// Tries one candidate for the IPv4 draft of this CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn try_port4(attempt: u32, hash: u64, now_ns: u64) -> u32 {
    try_port::<V4>(attempt, hash, now_ns).unwrap_or(FAILED)
}

/// Tries one candidate for the IPv6 draft of this CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn try_port6(attempt: u32, hash: u64, now_ns: u64) -> u32 {
    try_port::<V6>(attempt, hash, now_ns).unwrap_or(FAILED)
}

#[inline(always)]
fn try_port<F: Family>(attempt: u32, hash: u64, now_ns: u64) -> Option<u32> {
    let settings = SETTINGS.get(0)?;
    let range = PortRange::new(settings.snat_port_low, settings.snat_port_high)?;
    let draft = F::scratch()?;
    let now = Now::new(now_ns, settings);
    if !Progress(draft.flow.progress).is_one_way() {
        let client_port = draft.flow.from_client.source_port.get();
        // Where the server sees the client's address, only another VIP's flow with the same
        // server can have the client's port.
        let keeps_port =
            attempt == 0 && draft.flow.from_server.destination == draft.flow.from_client.source;
        let port = if keeps_port {
            client_port
        } else {
            ports::candidate(range, client_port, hash, attempt)
        };
        draft.flow.from_server.destination_port = Be16::new(port);
        // The packets become those of the way back turned round, which is the same sum.
        let deltas = checksum::translation_deltas(&draft.flow.from_client, &draft.flow.from_server);
        draft.flow.header_delta = deltas.header;
        draft.flow.transport_delta = deltas.transport;
    }
    match half_open::claim::<F>(&draft.flow, hash, now, settings)? {
        Claim::Taken => Some(TAKEN),
        Claim::Known => Some(KNOWN),
        Claim::Busy => Some(BUSY),
        Claim::Granted(found) => {
            let mut holder = holder::<F>(&draft.flow, hash, settings);
            // Opened and confirmed since the packet did not find it, with another server.
            if holder == GRANTED && confirmed::entry::<F>(&draft.flow.from_client).is_some() {
                holder = KNOWN;
            }
            if holder != GRANTED {
                found.withdraw(&draft.flow);
            }
            Some(holder)
        }
    }
}

/// Fills in all that does not depend on the port.
#[inline(always)]
fn begin<F: Family>(
    segment: &Segment<F>,
    server: &ServerEntry,
    opening: &Opening,
    flow: &mut HalfOpenFlow<F::Address>,
) {
    words::copy(&segment.key, &mut flow.from_client);
    if Progress(opening.progress).is_one_way() {
        // What the server answers, whether or not anybody here sees it: no other flow has it.
        flow.from_server = segment.key.reversed();
        flow.header_delta = 0;
        flow.transport_delta = 0;
    } else {
        flow.from_server.source = F::Address::from_common(server.address);
        flow.from_server.destination = if opening.keeps_source {
            segment.key.source
        } else {
            F::Address::from_common(server.snat_address)
        };
        flow.from_server.source_port = server.port;
        flow.from_server.protocol = segment.key.protocol;
        flow.from_server.padding = [0; 3];
    }
    flow.created_ns = opening.now_ns;
    flow.forward_packets = 1;
    flow.forward_bytes = segment.bytes;
    flow.reply_packets = 0;
    flow.reply_bytes = 0;
    words::copy(&opening.client_hop, &mut flow.client_hop);
    flow.server = opening.server;
    flow.vip = opening.vip;
    flow.progress = opening.progress;
    (flow.sequence_shift, flow.client_sequence) = opening.numbers;
}

/// Whether a confirmed flow has the server's tuple: [`GRANTED`] if none has. What is left
/// there of this very flow is removed if its other half is gone.
#[inline(always)]
fn holder<F: Family>(
    flow: &HalfOpenFlow<F::Address>,
    client_hash: u64,
    settings: &Settings,
) -> u32 {
    let Some(entry) = confirmed::entry::<F>(&flow.from_server) else {
        return GRANTED;
    };
    if !entry.answers(&flow.from_client) {
        return TAKEN;
    }
    let Some(guard) = Guard::take::<F>(client_hash, settings) else { return BUSY };
    let stranded = confirmed::entry::<F>(&flow.from_client).is_none();
    if stranded {
        let own = confirmed::partner::<F>(&flow.from_client, &flow.from_server);
        confirmed::remove::<F>(&flow.from_client, &flow.from_server, None, own);
    }
    guard.release();
    // The flow was confirmed since its packet did not find it.
    if stranded { GRANTED } else { KNOWN }
}
