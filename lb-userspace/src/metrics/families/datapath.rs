//! The data plane and its VIPs.

use std::fmt;

use lb_common::counters::TrafficCounters;

use crate::metrics::{
    family::{Base, Family, Group, Kind, Samples},
    reading::{DatapathReading, Reading},
};

pub(super) static GROUP: Group = Group {
    title: "The data plane",
    doc: "Counters are those of the pinned maps: they go on over a restart, an upgrade and the \
          death of the agent, and begin at zero when the data plane is loaded anew. With \
          `datapath.mode: off` there are only the drops, which user space then counts.",
    families: &[
        Family {
            name: "pointsman_interface_attached",
            kind: Kind::Gauge,
            unit: None,
            labels: &["interface", "mode"],
            help: "1 if the XDP program is attached to the interface, in the mode native or \
                   generic; 0 with the mode off if it is not.",
            samples: |reading, out| {
                with(reading, |datapath| {
                    let mut interfaces = datapath.interfaces.iter();
                    interfaces.try_for_each(|(name, mode)| out.put(&[name, mode], *mode != "off"))
                })
            },
        },
        Family {
            name: "pointsman_maps_up_to_date",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "1 if maps, attachments and addresses are what configuration, checks and \
                   operator ask for; 0 while that fails, see pointsman status.",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.up_to_date)),
        },
        Family {
            name: "pointsman_dropped_packets",
            kind: Kind::Counter,
            unit: None,
            labels: &["reason"],
            help: "Packets dropped, or answered in place of a server, by reason; docs/maps.md has \
                   what each means. Sources that are refused are here: denied, not_allowed, \
                   blocked, new_rate, packet_rate, flows_per_source.",
            samples: |reading, out| out.put_each(reading.drops.iter().copied()),
        },
        Family {
            name: "pointsman_flow_table_entries",
            kind: Kind::Gauge,
            unit: None,
            labels: &["table"],
            help: "Entries of the tables of flows at the last sweep. A confirmed flow has two, or \
                   one if its server answers the client itself; a half-open one has one.",
            samples: |reading, out| {
                let entries = |&(name, entries, _): &_| (name, entries);
                with(reading, |datapath| out.put_each(datapath.tables.iter().map(entries)))
            },
        },
        Family {
            name: "pointsman_flow_table_capacity",
            kind: Kind::Gauge,
            unit: None,
            labels: &["table"],
            help: "Most entries of each table of flows. Full half-open tables forget the oldest.",
            samples: |reading, out| {
                let capacity = |&(name, _, capacity): &_| (name, capacity);
                with(reading, |datapath| out.put_each(datapath.tables.iter().map(capacity)))
            },
        },
        Family {
            name: "pointsman_expired_flows",
            kind: Kind::Counter,
            unit: None,
            labels: &[],
            help: "Flows that sweeps of this agent ended because nothing came for too long.",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.expired)),
        },
        Family {
            name: "pointsman_stranded_flows",
            kind: Kind::Counter,
            unit: None,
            labels: &[],
            help: "Of the expired flows, those of which only one entry was left.",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.stranded)),
        },
        Family {
            name: "pointsman_sweeps",
            kind: Kind::Counter,
            unit: None,
            labels: &[],
            help: "Sweeps of the tables of flows by this agent.",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.sweeps)),
        },
        Family {
            name: "pointsman_sweep_duration",
            kind: Kind::Gauge,
            unit: Some(Base::Seconds),
            labels: &[],
            help: "Time the last sweep took.",
            samples: |reading, out| {
                with(reading, |datapath| out.put_seconds(&[], datapath.sweep_time.as_secs_f64()))
            },
        },
        Family {
            name: "pointsman_syn_cookies_active",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "1 while so many SYNs come that they are answered with cookies.",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.syn_cookies)),
        },
        Family {
            name: "pointsman_source_rules",
            kind: Kind::Gauge,
            unit: None,
            labels: &["kind"],
            help: "Networks that are listed (allow and deny lists), and that the operator has \
                   blocked.",
            samples: |reading, out| {
                with(reading, |datapath| {
                    let [listed, blocked, _] = datapath.rules;
                    out.put_each([("listed", listed), ("blocked", blocked)])
                })
            },
        },
        Family {
            name: "pointsman_source_rules_capacity",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "Room for rules of each family (IPv4, IPv6).",
            samples: |reading, out| with(reading, |datapath| out.put(&[], datapath.rules[2])),
        },
    ],
};

/// Only with a data plane.
fn with(
    reading: &Reading,
    mut samples: impl FnMut(&DatapathReading) -> fmt::Result,
) -> fmt::Result {
    reading.datapath.as_ref().map_or(Ok(()), &mut samples)
}

const VIP: &[&str] = &["frontend", "address", "protocol"];
const VIP_DIRECTION: &[&str] = &["frontend", "address", "protocol", "direction"];

pub(super) static VIPS: Group = Group {
    title: "VIPs",
    doc: "Each address of each frontend of `mode: l4`. `direction` is `forward` from client to \
          server and `reply` back, which a data plane does not see where servers answer \
          clients themselves. With `datapath.mode: off`, bytes are those of payload, and of TCP \
          packets are not known.",
    families: &[
        Family {
            name: "pointsman_vip_packets",
            kind: Kind::Counter,
            unit: None,
            labels: VIP_DIRECTION,
            help: "Packets of flows of a VIP.",
            samples: |reading, out| {
                both_ways(reading, out, |traffic| [traffic.forward_packets, traffic.reply_packets])
            },
        },
        Family {
            name: "pointsman_vip",
            kind: Kind::Counter,
            unit: Some(Base::Bytes),
            labels: VIP_DIRECTION,
            help: "Bytes of those packets, Ethernet header included.",
            samples: |reading, out| {
                both_ways(reading, out, |traffic| [traffic.forward_bytes, traffic.reply_bytes])
            },
        },
        Family {
            name: "pointsman_vip_flows_opened",
            kind: Kind::Counter,
            unit: None,
            labels: VIP,
            help: "Flows that were opened.",
            samples: |reading, out| of_vips(reading, out, |traffic| traffic.flows),
        },
        Family {
            name: "pointsman_vip_resets",
            kind: Kind::Counter,
            unit: None,
            labels: VIP,
            help: "Clients answered with a RST because no server could have them.",
            samples: |reading, out| of_vips(reading, out, |traffic| traffic.resets),
        },
        Family {
            name: "pointsman_vip_flows",
            kind: Kind::Gauge,
            unit: None,
            labels: VIP,
            help: "Flows that both sides have confirmed and that are not over, at the last sweep.",
            samples: |reading, out| {
                let known = reading.vips.iter().filter_map(|vip| Some((vip, vip.flows?)));
                known.into_iter().try_for_each(|(vip, flows)| {
                    out.put(&[vip.frontend.as_str(), &vip.address, vip.protocol], flows)
                })
            },
        },
    ],
};

fn of_vips(
    reading: &Reading,
    out: &mut Samples<'_, '_>,
    number: fn(&TrafficCounters) -> u64,
) -> fmt::Result {
    let mut vips = reading.vips.iter().filter_map(|vip| Some((vip, vip.traffic.as_ref()?)));
    vips.try_for_each(|(vip, traffic)| {
        out.put(&[vip.frontend.as_str(), &vip.address, vip.protocol], number(traffic))
    })
}

fn both_ways(
    reading: &Reading,
    out: &mut Samples<'_, '_>,
    numbers: fn(&TrafficCounters) -> [u64; 2],
) -> fmt::Result {
    let mut vips = reading.vips.iter().filter_map(|vip| Some((vip, vip.traffic.as_ref()?)));
    vips.try_for_each(|(vip, traffic)| {
        let [forward, reply] = numbers(traffic);
        let place = |direction| [vip.frontend.as_str(), &vip.address, vip.protocol, direction];
        out.put(&place("forward"), forward)?;
        out.put(&place("reply"), reply)
    })
}
