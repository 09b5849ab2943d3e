//! Packets of no known flow: VIP lookup and the opening of a flow.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    flow::{Direction, Handle},
    forward::Forward,
    hash, source,
    tcp_state::{self, FirstPacket, Progress},
    vip::{VipEntry, VipKey, on_down, vip_flag},
};

use crate::{
    access, clock, confirmed,
    context::Context,
    cookie::{self, Advice},
    counters,
    family::Family,
    hit, limits,
    maps::{SETTINGS, VIPS},
    one_way::{self, Way},
    parse::{Segment, TCP},
    rewrite, select, splice,
    track::{self, Opened, Opening},
    transmit,
    verdict::{Step, Verdict},
    words,
};

/// Opens a flow if the packet is for a VIP; otherwise it is the kernel's.
#[inline(always)]
pub fn admit<F: Family>(ctx: Context, segment: &Segment<F>) -> Step {
    let key = VipKey::new(
        segment.key.destination.to_common(),
        segment.key.destination_port,
        segment.key.protocol,
    );
    // SAFETY: the value is copied, the reference is not kept.
    let Some(vip) = unsafe { VIPS.get(key) }.copied() else {
        return if moved_meanwhile(segment) { Step::Again } else { Step::Settled(Verdict::Pass) };
    };
    open(ctx, segment, &vip).unwrap_or_else(|refusal| refusal)
}

/// Whether a server's packet missed its flow in both tables because that was on the way from one
/// to the other.
#[inline(always)]
fn moved_meanwhile<F: Family>(segment: &Segment<F>) -> bool {
    let Some(draft) = F::scratch() else { return false };
    // There, because the stage has no stack to spare.
    words::copy(&segment.key, &mut draft.flow.from_client);
    confirmed::entry::<F>(&draft.flow.from_client).is_some()
}

#[inline(always)]
fn open<F: Family>(ctx: Context, segment: &Segment<F>, vip: &VipEntry) -> Result<Step, Step> {
    let vip_handle = Handle { id: vip.id, generation: vip.generation };
    let settings = SETTINGS.get(0).ok_or(drop(DropReason::Internal))?;
    if let Some(reason) = access::screen_new(segment, vip_handle, settings) {
        return Err(drop(reason));
    }
    let mut progress = first_progress(segment)?;
    if !source::can_be_client(segment.key.source) || segment.key.source == segment.key.destination {
        return Err(drop(DropReason::BadSource));
    }
    rewrite::check_ttl(segment).map_err(Step::Settled)?;
    let draft = F::scratch().ok_or(drop(DropReason::Internal))?;
    let tuple_hash = draft.hash;
    let forward = Forward::from_raw(vip.forward);
    let mut numbers = (0, 0);
    if segment.key.protocol == TCP && !forward.is_one_way() {
        match cookie::consult(segment, tuple_hash, vip.flags) {
            Advice::Admit => {}
            Advice::Ask => return Ok(Step::Cookie),
            Advice::Refuse => return Err(drop(DropReason::CookieInvalid)),
            Advice::Open => (progress, numbers) = cookie::opening(),
        }
    }
    if vip.flags & vip_flag::LIMITS_FLOWS != 0
        && let Some(reason) = limits::open_flow(segment, vip_handle)
    {
        return Err(refuse(vip_handle, progress, reason));
    }
    let selected = select::select(vip, tuple_hash, || hash::source_hash(&segment.key));
    let (handle, server) =
        selected.map_err(|reason| no_server(segment, vip, vip_handle, progress, reason))?;
    let hop = if forward.is_one_way() {
        one_way::check(segment.ip_bytes(), server, forward)?;
        transmit::hop_to(server)
    } else {
        hit::server_hop::<F>(ctx, server).map_err(Step::Settled)?
    };
    let opening = Opening {
        vip: vip_handle,
        server: handle,
        client_hop: transmit::arrival_hop(ctx, segment),
        now_ns: clock::now_ns(),
        hash: tuple_hash,
        progress: Progress(progress).with_forward(forward).0,
        numbers,
        keeps_source: vip.flags & vip_flag::KEEPS_SOURCE != 0,
    };
    match track::track::<F>(segment, server, &opening, draft).map_err(drop)? {
        Opened::New => {}
        Opened::Known => return Ok(Step::Again),
    }
    if progress & Progress::REPORTED == 0 {
        counters::count_open(vip_handle, handle, segment.bytes);
    } else {
        counters::count_packet(vip_handle, handle, Direction::Forward, segment.bytes);
    }
    if forward.is_one_way() {
        return Ok(Step::OneWay(Way::new(handle, forward, tuple_hash)));
    }
    if Progress(progress).is_behind_cookie() {
        return Ok(splice::hand_over(Direction::Forward, hop));
    }
    rewrite::translate(segment, &draft.flow.translation(Direction::Forward));
    Ok(Step::Settled(transmit::transmit(ctx, segment, &hop)))
}

/// What the first packet says about the connection.
#[inline(always)]
fn first_progress<F: Family>(segment: &Segment<F>) -> Result<u32, Step> {
    if segment.key.protocol != TCP {
        return Ok(0);
    }
    match tcp_state::first_packet(segment.flags) {
        FirstPacket::Open => Ok(Progress::SYN),
        FirstPacket::PickUp => Ok(Progress::PICKED_UP),
        FirstPacket::Carry => Ok(Progress::CARRIED),
        FirstPacket::Refuse => Err(drop(DropReason::NoFlow)),
    }
}

/// No server takes new flows: a client learns it from a RST, not from a timeout.
#[inline(always)]
fn no_server<F: Family>(
    segment: &Segment<F>,
    vip: &VipEntry,
    handle: Handle,
    progress: u32,
    reason: DropReason,
) -> Step {
    let answered = vip.on_down == on_down::RESET || reason == DropReason::ServerFull;
    if segment.key.protocol != TCP || !answered {
        return refuse(handle, progress, reason);
    }
    counters::count_reset(handle, Handle::default());
    Step::Reset(reason)
}

/// Who brings a cookie believes to be connected, and would wait for its server for minutes.
#[inline(always)]
fn refuse(vip: Handle, progress: u32, reason: DropReason) -> Step {
    if !Progress(progress).is_behind_cookie() {
        return drop(reason);
    }
    counters::count_reset(vip, Handle::default());
    Step::Reset(reason)
}

#[inline(always)]
fn drop(reason: DropReason) -> Step {
    Step::Settled(Verdict::Drop(reason))
}
