//! The agent and its process.

use std::time::SystemTime;

use crate::metrics::family::{Base, Family, Group, Kind};

pub(super) static GROUP: Group = Group {
    title: "The agent",
    doc: "Of the process that answers. Its counters begin at zero when it starts.",
    families: &[
        Family {
            name: "pointsman_build",
            kind: Kind::Info,
            unit: None,
            labels: &["version"],
            help: "The version that runs.",
            samples: |reading, out| out.put(&[reading.agent.version], 1_u64),
        },
        Family {
            name: "pointsman_reloads",
            kind: Kind::Counter,
            unit: None,
            labels: &["result"],
            help: "Reloads of the configuration: accepted, or refused with all their faults.",
            samples: |reading, out| {
                let [accepted, refused] = reading.agent.reloads;
                out.put_each([("accepted", accepted), ("refused", refused)])
            },
        },
        Family {
            name: "pointsman_last_reload_accepted",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "1 if the last reload was accepted, or there was none; 0 if an older \
                   configuration than the file stays in force.",
            samples: |reading, out| out.put(&[], reading.agent.last_reload_accepted),
        },
        Family {
            name: "pointsman_configuration_timestamp",
            kind: Kind::Gauge,
            unit: Some(Base::Seconds),
            labels: &[],
            help: "When the configuration in force was loaded, in seconds since 1970.",
            samples: |reading, out| out.put_seconds(&[], epoch(reading.agent.configured)),
        },
        Family {
            name: "pointsman_access_log_lines",
            kind: Kind::Counter,
            unit: None,
            labels: &["result"],
            help: "Lines of the access log: written, or lost to a slow or failing target.",
            samples: |reading, out| {
                let [written, lost] = reading.agent.log_lines;
                out.put_each([("written", written), ("lost", lost)])
            },
        },
    ],
};

pub(super) static PROCESS: Group = Group {
    title: "The process",
    doc: "Under the names that all Prometheus clients use.",
    families: &[
        Family {
            name: "process_cpu",
            kind: Kind::Counter,
            unit: Some(Base::Seconds),
            labels: &[],
            help: "Processor time of the agent, user and system.",
            samples: |reading, out| match reading.process {
                Some(process) => out.put_seconds(&[], process.cpu.as_secs_f64()),
                None => Ok(()),
            },
        },
        Family {
            name: "process_resident_memory",
            kind: Kind::Gauge,
            unit: Some(Base::Bytes),
            labels: &[],
            help: "Resident memory of the agent; maps of the kernel are not part of it.",
            samples: |reading, out| match reading.process {
                Some(process) => out.put(&[], process.resident),
                None => Ok(()),
            },
        },
        Family {
            name: "process_open_fds",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "Open descriptors; a proxied connection has two. Not before Linux 6.2.",
            samples: |reading, out| match reading.process.and_then(|one| one.descriptors) {
                Some(descriptors) => out.put(&[], descriptors),
                None => Ok(()),
            },
        },
        Family {
            name: "process_max_fds",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "Most descriptors the agent may have.",
            samples: |reading, out| match reading.process {
                Some(process) => out.put(&[], process.max_descriptors),
                None => Ok(()),
            },
        },
        Family {
            name: "process_threads",
            kind: Kind::Gauge,
            unit: None,
            labels: &[],
            help: "Threads of the agent.",
            samples: |reading, out| match reading.process {
                Some(process) => out.put(&[], process.threads),
                None => Ok(()),
            },
        },
        Family {
            name: "process_start_time",
            kind: Kind::Gauge,
            unit: Some(Base::Seconds),
            labels: &[],
            help: "When the agent started, in seconds since 1970.",
            samples: |reading, out| out.put_seconds(&[], epoch(reading.agent.started)),
        },
    ],
};

/// Seconds since 1970.
pub(super) fn epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
