//! Servers: their states and checks, and what layer 4 and the proxy do with them.

use std::fmt;

use lb_common::counters::TrafficCounters;

use super::{agent::epoch, proxy};
use crate::{
    metrics::{
        family::{Base, Family, Group, Kind, Samples},
        reading::{ProxyReading, Reading, ServerReading},
    },
    model::state::ServerState,
};

const SERVER: &[&str] = &["backend", "server"];

const STATES: [(ServerState, &str); 5] = [
    (ServerState::Up, "UP"),
    (ServerState::Down, "DOWN"),
    (ServerState::Drain, "DRAIN"),
    (ServerState::Maint, "MAINT"),
    (ServerState::Nolb, "NOLB"),
];

pub(super) static GROUP: Group = Group {
    title: "Servers",
    doc: "A server has samples only of what uses it: of flows and packets if a frontend of `mode: \
          l4` does, of requests if one of the proxy does, of checks if it is checked. A server \
          whose address changes is another one: its counters begin at zero.",
    families: &[
        Family {
            name: "pointsman_server_state",
            kind: Kind::Gauge,
            unit: None,
            labels: &["backend", "server", "state"],
            help: "1 for the state of the server, 0 for all others: UP, DOWN, DRAIN, MAINT, NOLB.",
            samples: |reading, out| {
                of_servers(reading, |[backend, name], server| {
                    STATES.iter().try_for_each(|(state, word)| {
                        out.put(&[backend, name, word], *state == server.state)
                    })
                })
            },
        },
        Family {
            name: "pointsman_server_state_timestamp",
            kind: Kind::Gauge,
            unit: Some(Base::Seconds),
            labels: SERVER,
            help: "When the state last changed, in seconds since 1970.",
            samples: |reading, out| {
                of_servers(reading, |labels, one| out.put_seconds(&labels, epoch(one.since)))
            },
        },
        Family {
            name: "pointsman_server_weight",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "The weight in force, 0 to 256.",
            samples: |reading, out| of_servers(reading, |labels, one| out.put(&labels, one.weight)),
        },
        Family {
            name: "pointsman_server_max_connections",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "Most requests of the proxy, or flows of layer 4, at a time, if that is limited.",
            samples: |reading, out| {
                of_servers(reading, |labels, one| match one.max_connections {
                    Some(most) => out.put(&labels, most),
                    None => Ok(()),
                })
            },
        },
        Family {
            name: "pointsman_server_checks",
            kind: Kind::Counter,
            unit: None,
            labels: &["backend", "server", "result"],
            help: "Health checks that have passed and failed.",
            samples: |reading, out| {
                of_servers(reading, |[backend, name], server| {
                    let Some(checks) = server.checks else { return Ok(()) };
                    out.put(&[backend, name, "passed"], checks.passed)?;
                    out.put(&[backend, name, "failed"], checks.failed)
                })
            },
        },
        Family {
            name: "pointsman_server_check_duration",
            kind: Kind::Gauge,
            unit: Some(Base::Seconds),
            labels: SERVER,
            help: "Time the last health check took, also if it failed.",
            samples: |reading, out| {
                of_servers(reading, |labels, server| {
                    match server.checks.and_then(|checks| checks.last) {
                        Some(last) => out.put_seconds(&labels, last.as_secs_f64()),
                        None => Ok(()),
                    }
                })
            },
        },
        Family {
            name: "pointsman_server_flows",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "Flows of layer 4 now, confirmed by both sides and not over.",
            samples: |reading, out| {
                of_servers(reading, |labels, server| match server.layer_4 {
                    Some(layer_4) => out.put(&labels, layer_4.flows),
                    None => Ok(()),
                })
            },
        },
        Family {
            name: "pointsman_server_flows_opened",
            kind: Kind::Counter,
            unit: None,
            labels: SERVER,
            help: "Flows of layer 4 that were opened.",
            samples: |reading, out| {
                of_layer_4(reading, |labels, traffic| out.put(&labels, traffic.flows))
            },
        },
        Family {
            name: "pointsman_server_packets",
            kind: Kind::Counter,
            unit: None,
            labels: &["backend", "server", "direction"],
            help: "Packets of those flows, forward to the server and its replies.",
            samples: |reading, out| {
                of_layer_4(reading, |[backend, name], traffic| {
                    out.put(&[backend, name, "forward"], traffic.forward_packets)?;
                    out.put(&[backend, name, "reply"], traffic.reply_packets)
                })
            },
        },
        Family {
            name: "pointsman_server_flow",
            kind: Kind::Counter,
            unit: Some(Base::Bytes),
            labels: &["backend", "server", "direction"],
            help: "Bytes of those packets, Ethernet header included.",
            samples: |reading, out| {
                of_layer_4(reading, |[backend, name], traffic| {
                    out.put(&[backend, name, "forward"], traffic.forward_bytes)?;
                    out.put(&[backend, name, "reply"], traffic.reply_bytes)
                })
            },
        },
        Family {
            name: "pointsman_server_resets",
            kind: Kind::Counter,
            unit: None,
            labels: SERVER,
            help: "Clients answered with a RST because this server was dead or gone.",
            samples: |reading, out| {
                of_layer_4(reading, |labels, traffic| out.put(&labels, traffic.resets))
            },
        },
        Family {
            name: "pointsman_server_active_requests",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "Requests and sessions that the proxy has with the server now.",
            samples: |reading, out| of_proxy(reading, out, |proxy| proxy.active.into()),
        },
        Family {
            name: "pointsman_server_queued_requests",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "Requests and sessions that wait for this server alone.",
            samples: |reading, out| of_proxy(reading, out, |proxy| proxy.queued.into()),
        },
        Family {
            name: "pointsman_server_requests",
            kind: Kind::Counter,
            unit: None,
            labels: &["backend", "server", "code"],
            help: "Requests and sessions of the server that are over.",
            samples: |reading, out| {
                of_servers(reading, |[backend, name], server| {
                    let Some(proxied) = &server.proxy else { return Ok(()) };
                    proxy::by_class(&proxied.requests, |code, number| {
                        out.put(&[backend, name, code], number)
                    })
                })
            },
        },
        Family {
            name: "pointsman_server_request",
            kind: Kind::Counter,
            unit: Some(Base::Bytes),
            labels: &["backend", "server", "direction"],
            help: "Bytes of bodies of those requests and responses, or of sessions.",
            samples: |reading, out| {
                of_servers(reading, |[backend, name], server| {
                    let Some(proxied) = &server.proxy else { return Ok(()) };
                    proxy::both_ways(&proxied.requests, |direction, bytes| {
                        out.put(&[backend, name, direction], bytes)
                    })
                })
            },
        },
        Family {
            name: "pointsman_server_retries",
            kind: Kind::Counter,
            unit: None,
            labels: SERVER,
            help: "Times that a request or a session was tried again, here or elsewhere, after a \
                   try at this server.",
            samples: |reading, out| of_proxy(reading, out, |proxy| proxy.requests.retries),
        },
        Family {
            name: "pointsman_server_ejected",
            kind: Kind::Gauge,
            unit: None,
            labels: SERVER,
            help: "1 while failed requests keep the server from getting others (passive checks).",
            samples: |reading, out| {
                of_servers(reading, |labels, server| match server.ejected {
                    Some(ejected) => out.put(&labels, ejected),
                    None => Ok(()),
                })
            },
        },
    ],
};

fn of_servers<'a>(
    reading: &'a Reading,
    mut put: impl FnMut([&'a str; 2], &'a ServerReading) -> fmt::Result,
) -> fmt::Result {
    let mut servers = reading.servers.iter();
    servers.try_for_each(|server| put([server.backend.as_str(), server.name.as_str()], server))
}

fn of_layer_4<'a>(
    reading: &'a Reading,
    mut put: impl FnMut([&'a str; 2], &'a TrafficCounters) -> fmt::Result,
) -> fmt::Result {
    of_servers(reading, |labels, server| match &server.layer_4 {
        Some(layer_4) => put(labels, &layer_4.traffic),
        None => Ok(()),
    })
}

fn of_proxy(
    reading: &Reading,
    out: &mut Samples<'_, '_>,
    number: fn(&ProxyReading) -> u64,
) -> fmt::Result {
    of_servers(reading, |labels, server| match &server.proxy {
        Some(proxy) => out.put(&labels, number(proxy)),
        None => Ok(()),
    })
}
