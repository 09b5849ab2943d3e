//! What the proxy does: its frontends, and backends.

use std::fmt;

use crate::metrics::{
    family::{Base, Family, Group, Kind, Samples},
    reading::{FrontendReading, ProxyReading, Reading, Requests},
};
use crate::model::histogram::{Histogram, TimingTotals};

const FRONTEND: &[&str] = &["frontend"];
const BACKEND: &[&str] = &["backend"];

/// Words for the classes of status.
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Words for who is to blame.
const CAUSES: [&str; 4] = ["client", "server", "proxy", "policy"];

/// Words for what became of copies.
const COPIED: [&str; 5] = ["sent", "too_large", "busy", "no_server", "incomplete"];

pub(super) static GROUP: Group = Group {
    title: "Frontends and backends",
    doc: "Frontends of `mode: http` and `mode: tcp`, and of `mode: l4` where there is no data \
          plane. Counters go on over reloads, for as long as the frontend, backend or server \
          is configured, and begin at zero with the agent. `code` is the class of the status \
          that the client was sent, `none` if it was sent none, as in all sessions of `mode: \
          tcp`. `direction` is `in` from clients and `out` to them. `cause` is who is to blame \
          for what did not end well, as in the log: `client`, `server`, `proxy` (this host is \
          short of something, or the agent stopped) or `policy` (a rule, a list, a limit).",
    families: &[
        Family {
            name: "pointsman_frontend_connections",
            kind: Kind::Gauge,
            unit: None,
            labels: FRONTEND,
            help: "Connections of clients now.",
            samples: |reading, out| of_frontends(reading, out, |one| one.connections.into()),
        },
        Family {
            name: "pointsman_frontend_max_connections",
            kind: Kind::Gauge,
            unit: None,
            labels: FRONTEND,
            help: "Most connections of clients.",
            samples: |reading, out| of_frontends(reading, out, |one| one.max_connections.into()),
        },
        Family {
            name: "pointsman_frontend_accepted_connections",
            kind: Kind::Counter,
            unit: None,
            labels: FRONTEND,
            help: "Connections of clients, those that were refused too.",
            samples: |reading, out| of_frontends(reading, out, |one| one.accepted),
        },
        Family {
            name: "pointsman_frontend_refused_connections",
            kind: Kind::Counter,
            unit: None,
            labels: &["frontend", "reason"],
            help: "Connections that were reset at once: source, for lists or blocks of sources; \
                   limit, because there are too many in all or of the source.",
            samples: |reading, out| {
                reading.frontends.iter().try_for_each(|frontend| {
                    let (name, [source, limit]) = (frontend.name.as_str(), frontend.refused);
                    out.put(&[name, "source"], source)?;
                    out.put(&[name, "limit"], limit)
                })
            },
        },
        Family {
            name: "pointsman_frontend_copies",
            kind: Kind::Counter,
            unit: None,
            labels: &["frontend", "result"],
            help: "Copies of requests for other backends (mirror), once there are any: sent, or not: \
                   too_large, the body; busy, too many on their way; no_server with room; \
                   incomplete, the body did not come to its end.",
            samples: |reading, out| {
                let copying = |one: &&FrontendReading| one.copies.iter().any(|count| *count > 0);
                reading.frontends.iter().filter(copying).try_for_each(|frontend| {
                    let mut counts = COPIED.into_iter().zip(frontend.copies);
                    counts.try_for_each(|(result, count)| {
                        out.put(&[frontend.name.as_str(), result], count)
                    })
                })
            },
        },
        Family {
            name: "pointsman_frontend_requests",
            kind: Kind::Counter,
            unit: None,
            labels: &["frontend", "code"],
            help: "Requests and sessions that are over.",
            samples: |reading, out| {
                reading.frontends.iter().try_for_each(|frontend| {
                    by_class(&frontend.requests, |code, number| {
                        out.put(&[frontend.name.as_str(), code], number)
                    })
                })
            },
        },
        Family {
            name: "pointsman_frontend",
            kind: Kind::Counter,
            unit: Some(Base::Bytes),
            labels: &["frontend", "direction"],
            help: "Bytes of bodies of requests and responses, or of sessions.",
            samples: |reading, out| {
                reading.frontends.iter().try_for_each(|frontend| {
                    both_ways(&frontend.requests, |direction, bytes| {
                        out.put(&[frontend.name.as_str(), direction], bytes)
                    })
                })
            },
        },
        Family {
            name: "pointsman_frontend_errors",
            kind: Kind::Counter,
            unit: None,
            labels: &["frontend", "cause"],
            help: "Requests and sessions that did not end well, whatever status was sent, and \
                   connections that did not come to one. A response of a server is well, whatever \
                   its status.",
            samples: |reading, out| {
                reading.frontends.iter().try_for_each(|frontend| {
                    by_cause(&frontend.requests, |cause, number| {
                        out.put(&[frontend.name.as_str(), cause], number)
                    })
                })
            },
        },
        Family {
            name: "pointsman_frontend_request_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: FRONTEND,
            help: "Time from the first byte of a request to the end of its response, or of a \
                   session; WebSockets until they are closed.",
            samples: |reading, out| {
                timings_of_frontends(reading, |name, it| out.put_histogram(&[name], &it.total))
            },
        },
        Family {
            name: "pointsman_frontend_response_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: FRONTEND,
            help: "Time from sending a request to a server to the header of its response.",
            samples: |reading, out| {
                timings_of_frontends(reading, |name, it| out.put_histogram(&[name], &it.response))
            },
        },
        Family {
            name: "pointsman_backend_usable_servers",
            kind: Kind::Gauge,
            unit: None,
            labels: BACKEND,
            help: "Servers that take new flows and requests; backups count while no other does.",
            samples: |reading, out| {
                let mut backends = reading.backends.iter();
                backends.try_for_each(|one| out.put(&[one.name.as_str()], one.usable))
            },
        },
        Family {
            name: "pointsman_backend_queued_requests",
            kind: Kind::Gauge,
            unit: None,
            labels: BACKEND,
            help: "Requests and sessions that wait for any server of the backend.",
            samples: |reading, out| {
                of_backends(reading, |name, proxy| out.put(&[name], proxy.queued))
            },
        },
        Family {
            name: "pointsman_backend_requests",
            kind: Kind::Counter,
            unit: None,
            labels: &["backend", "code"],
            help: "Requests and sessions that are over, those that reached no server too.",
            samples: |reading, out| {
                of_backends(reading, |name, proxy| {
                    by_class(&proxy.requests, |code, number| out.put(&[name, code], number))
                })
            },
        },
        Family {
            name: "pointsman_backend_retries",
            kind: Kind::Counter,
            unit: None,
            labels: BACKEND,
            help: "Servers that requests and sessions were redispatched to, or that were tried \
                   again, after the first.",
            samples: |reading, out| {
                of_backends(reading, |name, proxy| out.put(&[name], proxy.requests.retries))
            },
        },
        Family {
            name: "pointsman_backend_errors",
            kind: Kind::Counter,
            unit: None,
            labels: &["backend", "cause"],
            help: "Requests and sessions that did not end well, whatever status was sent.",
            samples: |reading, out| {
                of_backends(reading, |name, proxy| {
                    by_cause(&proxy.requests, |cause, number| out.put(&[name, cause], number))
                })
            },
        },
        Family {
            name: "pointsman_backend_request_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: BACKEND,
            help: "As that of the frontend, of requests and sessions that were for this backend.",
            samples: |reading, out| timings_of_backends(reading, out, |timings| &timings.total),
        },
        Family {
            name: "pointsman_backend_queue_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: BACKEND,
            help: "Time that requests and sessions waited for a server with room, of those that \
                   got one and had to wait.",
            samples: |reading, out| timings_of_backends(reading, out, |timings| &timings.queue),
        },
        Family {
            name: "pointsman_backend_connect_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: BACKEND,
            help: "Time connecting to a server took, TLS included; requests on connections that \
                   were kept have none.",
            samples: |reading, out| timings_of_backends(reading, out, |timings| &timings.connect),
        },
        Family {
            name: "pointsman_backend_response_duration",
            kind: Kind::Histogram,
            unit: Some(Base::Seconds),
            labels: BACKEND,
            help: "Time from sending a request to a server to the header of its response.",
            samples: |reading, out| timings_of_backends(reading, out, |timings| &timings.response),
        },
    ],
};

fn of_frontends(
    reading: &Reading,
    out: &mut Samples<'_, '_>,
    number: fn(&FrontendReading) -> u64,
) -> fmt::Result {
    let mut frontends = reading.frontends.iter();
    frontends.try_for_each(|frontend| out.put(&[frontend.name.as_str()], number(frontend)))
}

fn of_backends(
    reading: &Reading,
    mut put: impl FnMut(&str, &ProxyReading) -> fmt::Result,
) -> fmt::Result {
    let mut backends = reading.backends.iter();
    backends.try_for_each(|backend| match &backend.proxy {
        Some(proxy) => put(backend.name.as_str(), proxy),
        None => Ok(()),
    })
}

fn timings_of_frontends(
    reading: &Reading,
    mut put: impl FnMut(&str, &TimingTotals) -> fmt::Result,
) -> fmt::Result {
    let mut frontends = reading.frontends.iter();
    frontends.try_for_each(|frontend| put(frontend.name.as_str(), &frontend.timings))
}

fn timings_of_backends(
    reading: &Reading,
    out: &mut Samples<'_, '_>,
    which: fn(&TimingTotals) -> &Histogram,
) -> fmt::Result {
    let mut backends = reading.backends.iter();
    backends.try_for_each(|backend| match &backend.timings {
        Some(timings) => out.put_histogram(&[backend.name.as_str()], which(timings)),
        None => Ok(()),
    })
}

/// Those that did not end well by who is to blame.
fn by_cause(requests: &Requests, mut put: impl FnMut(&str, u64) -> fmt::Result) -> fmt::Result {
    CAUSES.iter().zip(requests.faults).try_for_each(|(cause, number)| put(cause, number))
}

/// Requests by the class of their status.
pub(super) fn by_class(
    requests: &Requests,
    mut put: impl FnMut(&str, u64) -> fmt::Result,
) -> fmt::Result {
    CLASSES.iter().zip(requests.by_class).try_for_each(|(class, number)| put(class, number))
}

/// Bytes by direction.
pub(super) fn both_ways(
    requests: &Requests,
    mut put: impl FnMut(&str, u64) -> fmt::Result,
) -> fmt::Result {
    put("in", requests.bytes_in)?;
    put("out", requests.bytes_out)
}
