//! Reporting finished flows to the agent.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    flow::{Direction, FlowEntry, FlowKey},
    settings::flag,
};

use crate::{
    clock, counters,
    maps::{EVENTS, SETTINGS},
};

/// Writes a record of a flow that ended. `key` and `entry` are one direction's, `partner`
/// the other's if it is still there.
///
/// Not inlined: many paths lead here, and none is hot.
#[inline(never)]
pub fn report<A: Address>(
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
    partner: Option<&FlowEntry<A>>,
    cause: u8,
) {
    if SETTINGS.get(0).is_none_or(|settings| settings.flags & flag::FLOW_EVENTS == 0) {
        return;
    }
    let Some(mut record) = EVENTS.reserve(0) else {
        counters::count_drop(DropReason::EventLost);
        return;
    };
    let (packets, bytes) = partner.map_or((0, 0), |partner| (partner.packets, partner.bytes));
    // SAFETY: the record is ours until it is submitted, and all of it is written: 120
    // bytes of fields without gaps.
    let end = unsafe { &mut *record.as_mut_ptr() };
    end.created_ns = entry.created_ns;
    end.ended_ns = clock::now_ns();
    end.vip = entry.vip;
    end.server = entry.server;
    end.progress = entry.progress;
    end.protocol = key.protocol;
    end.cause = cause;
    end.padding = [0; 2];
    match entry.direction() {
        Direction::Forward => {
            (end.forward_packets, end.forward_bytes) = (entry.packets, entry.bytes);
            (end.reply_packets, end.reply_bytes) = (packets, bytes);
            end.client = key.source.to_common();
            end.vip_address = key.destination.to_common();
            end.server_address = entry.destination.to_common();
            end.client_port = key.source_port;
            end.vip_port = key.destination_port;
            end.server_port = entry.destination_port;
            end.snat_port = entry.source_port;
        }
        Direction::Reply => {
            (end.reply_packets, end.reply_bytes) = (entry.packets, entry.bytes);
            (end.forward_packets, end.forward_bytes) = (packets, bytes);
            end.client = entry.destination.to_common();
            end.vip_address = entry.source.to_common();
            end.server_address = key.source.to_common();
            end.client_port = entry.destination_port;
            end.vip_port = entry.source_port;
            end.server_port = key.source_port;
            end.snat_port = key.destination_port;
        }
    }
    record.submit(0);
}
