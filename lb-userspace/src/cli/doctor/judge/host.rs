//! The machine around the kernel: memory, clock, ports, what the kernel's own network does.

use std::time::Duration;

use super::{super::facts::HostFacts, Finding};
use crate::{cli::units, clock::Discipline};

/// Clock sources that are read without leaving the processor.
const FAST_CLOCKS: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen", "timebase"];
/// How far off a clock may be before lines of several machines get hard to compare. Without a
/// word from its source it is there half an hour after the last.
const MOST_ERROR: Duration = Duration::from_secs(1);

/// What matters to the data plane.
pub(super) fn findings(host: &HostFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(memory(host));
    findings.extend(host.clocksource.as_deref().map(clocksource));
    findings.extend(host.clock.map(clock));
    findings.extend(ports(host));
    findings.extend(forwarding(host));
    findings.extend(proxy(host));
    findings.extend(ethtool(host.has_ethtool));
    findings
}

/// What matters to the proxy alone.
pub(super) fn of_proxy(host: &HostFacts) -> Vec<Finding> {
    let clock = host.clock.map(clock);
    clock.into_iter().chain(proxy(host)).collect()
}

fn proxy(host: &HostFacts) -> impl Iterator<Item = Finding> {
    descriptors(host).into_iter().chain(tracking(host))
}

fn memory(host: &HostFacts) -> Option<Finding> {
    // Without a configuration nobody needs any.
    let needed = Some(host.memory_needed).filter(|needed| *needed > 0)?;
    let maps = format!("the maps take {}", units::bytes(needed));
    if let Some(limit) = host.memory_limit.filter(|limit| *limit < needed) {
        let text = format!("{maps}, the agent's control group may use {}", units::bytes(limit));
        let remedy = "systemctl set-property pointsman.service MemoryMax=infinity";
        return Some(Finding::problem("memory", text, remedy));
    }
    let held = host.memory_held.unwrap_or(0);
    match host.memory_free {
        Some(free) if free.saturating_add(held) < needed => {
            let text = format!("{maps}, {} are free", units::bytes(free));
            let remedy = "lower datapath.max_flows and datapath.max_half_open";
            Some(Finding::problem("memory", text, remedy))
        }
        Some(free) => {
            Some(Finding::good("memory", format!("{maps}, {} are free", units::bytes(free))))
        }
        None => Some(Finding::good("memory", format!("{maps}, they have {}", units::bytes(held)))),
    }
}

fn clocksource(source: &str) -> Finding {
    if FAST_CLOCKS.contains(&source) {
        return Finding::good("clock source", source);
    }
    let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let text = format!("{source} is slow to read, and slows down every use of the time");
    Finding::notice("clock source", text, format!("echo tsc > {file}"))
}

fn clock(clock: Discipline) -> Finding {
    let remedy = "timedatectl set-ntp true; timedatectl timesync-status";
    if !clock.is_synchronised {
        let text = "nobody sets it (NTP), or not of late; times in logs may be wrong";
        return Finding::notice("clock", text, remedy);
    }
    let most = clock.most_error.as_millis();
    if clock.most_error > MOST_ERROR {
        let text = format!("may be {most} ms off: it was not set for long");
        return Finding::notice("clock", text, remedy);
    }
    Finding::good("clock", format!("in step with others, within {most} ms"))
}

/// A port that the host opens towards a server must not be one that SNAT gives out.
fn ports(host: &HostFacts) -> Option<Finding> {
    let (local, snat) = (host.local_ports?, host.snat_ports?);
    let shared = (local.0.max(snat.0), local.1.min(snat.1));
    let is_reserved =
        host.reserved_ports.iter().any(|range| range.0 <= shared.0 && shared.1 <= range.1);
    if shared.0 > shared.1 || is_reserved {
        let text = format!("{}-{} are for SNAT only", snat.0, snat.1);
        return Some(Finding::good("ports", text));
    }
    let text = format!(
        "the host's own connections use ports {}-{}, which overlap with datapath.snat_ports \
         {}-{}: answers to the host's connections are taken for replies",
        local.0, local.1, snat.0, snat.1
    );
    let remedy = match snat.1.checked_add(1).filter(|first| *first < 60_000) {
        Some(first) => format!("sysctl -w net.ipv4.ip_local_port_range=\"{first} 60999\""),
        None => "set datapath.snat_ports to a range of its own".to_owned(),
    };
    Some(Finding::problem("ports", text, remedy))
}

/// The kernel finds the way only for who forwards; the data plane asks it while the agent
/// does not know a neighbour.
fn forwarding(host: &HostFacts) -> Vec<Finding> {
    let off = |family: Option<bool>, name: &str, key: &str| {
        (family == Some(false)).then(|| {
            let mut text = format!(
                "the kernel does not forward {name}: there is no fallback for servers whose \
                 neighbour entry is not known"
            );
            if !host.half_nat.is_empty() {
                text += &format!(
                    ", and the servers of {}, whose router this is, reach nobody but clients",
                    host.half_nat.join(", ")
                );
            }
            Finding::notice("forwarding", text, format!("sysctl -w {key}=1"))
        })
    };
    let four = off(host.forwards4, "IPv4", "net.ipv4.ip_forward");
    let six = off(host.forwards6, "IPv6", "net.ipv6.conf.all.forwarding");
    four.into_iter().chain(six).collect()
}

/// A connection of the proxy is two.
fn descriptors(host: &HostFacts) -> Option<Finding> {
    let (most, wanted) = (host.descriptors?, host.connections.checked_mul(2)?);
    if wanted == 0 {
        return None;
    }
    if most < wanted {
        let text = format!(
            "the agent may have {most}, the {} connections of the frontends need {wanted}: what is \
             beyond waits",
            host.connections
        );
        let remedy = format!("systemctl edit pointsman: [Service] LimitNOFILE={}", wanted + 1024);
        return Some(Finding::notice("descriptors", text, remedy));
    }
    Some(Finding::good("descriptors", format!("{most} for {} connections", host.connections)))
}

/// XDP comes before netfilter, so only the proxy's connections, the agent's own and those of
/// generic kernel forwarding are tracked.
fn tracking(host: &HostFacts) -> Option<Finding> {
    let (tracked, most) = host.tracked?;
    let wanted = host.connections.saturating_mul(2);
    let enough = wanted.max(tracked.saturating_mul(2)).next_power_of_two();
    let remedy = format!("sysctl -w net.netfilter.nf_conntrack_max={enough}");
    if tracked.saturating_mul(10) >= most.saturating_mul(9) {
        let text = format!(
            "tracks {tracked} connections and can {most}: new ones to the proxy and to servers \
             are about to be dropped"
        );
        return Some(Finding::problem("netfilter", text, remedy));
    }
    // Nothing is tracked where no rule asks for it.
    (tracked > 0 && most < wanted).then(|| {
        let text = format!(
            "tracks connections, {most} at most, and those of the proxy may be {wanted}; beyond, \
             packets are dropped"
        );
        Finding::notice("netfilter", text, remedy)
    })
}

fn ethtool(there: bool) -> Option<Finding> {
    let text = "is not installed: offloads, queues and rings are unknown";
    (!there).then(|| Finding::notice("ethtool", text, "apt-get install ethtool"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Level,
            tests::{check, check_good, healthy_host as healthy},
        },
        *,
    };

    #[track_caller]
    fn ill(change: impl FnOnce(&mut HostFacts), level: Level, subject: &str, words: &[&str]) {
        let mut host = healthy();
        change(&mut host);
        check(&findings(&host), level, subject, words);
    }

    #[test]
    fn a_healthy_machine_has_nothing_to_mend() {
        check_good(&findings(&healthy()));
        check_good(&of_proxy(&healthy()));
    }

    #[test]
    fn maps_that_do_not_fit_are_a_problem() {
        let words = ["256.0 MiB", "1.0 MiB", "datapath.max_flows"];
        ill(|host| host.memory_free = Some(1 << 20), Level::Problem, "memory", &words);
        let words = ["256.0 MiB", "128.0 MiB", "MemoryMax"];
        ill(|host| host.memory_limit = Some(1 << 27), Level::Problem, "memory", &words);
        // What the maps have already they need not find.
        let mut host = healthy();
        (host.memory_free, host.memory_held) = (Some(1 << 20), Some(1 << 28));
        check_good(&findings(&host));
    }

    #[test]
    fn clocks_that_are_slow_or_alone_are_noticed() {
        let slow = |host: &mut HostFacts| host.clocksource = Some("hpet".into());
        ill(slow, Level::Notice, "clock source", &["hpet", "echo tsc"]);
        let alone = Discipline { is_synchronised: false, most_error: Duration::from_secs(16) };
        ill(|host| host.clock = Some(alone), Level::Notice, "clock", &["timedatectl"]);
        let long = Discipline { is_synchronised: true, most_error: Duration::from_secs(2) };
        ill(|host| host.clock = Some(long), Level::Notice, "clock", &["2000 ms off", "timesync"]);
    }

    #[test]
    fn ports_that_both_the_host_and_snat_use_are_a_problem() {
        let words = ["10000-60999", "1024-32767", "ip_local_port_range=\"32768 60999\""];
        ill(|host| host.local_ports = Some((10_000, 60_999)), Level::Problem, "ports", &words);
        let high = |host: &mut HostFacts| host.snat_ports = Some((1024, 65_535));
        ill(high, Level::Problem, "ports", &["set datapath.snat_ports"]);
        let mut host = healthy();
        (host.local_ports, host.reserved_ports) = (Some((10_000, 60_999)), vec![(1024, 32_767)]);
        check_good(&findings(&host));
        host.reserved_ports = vec![(1024, 20_000)];
        check(&findings(&host), Level::Problem, "ports", &words);
    }

    #[test]
    fn a_host_that_does_not_forward_is_noticed() {
        ill(|host| host.forwards4 = Some(false), Level::Notice, "forwarding", &["ip_forward=1"]);
        let six = ["net.ipv6.conf.all.forwarding=1"];
        ill(|host| host.forwards6 = Some(false), Level::Notice, "forwarding", &six);
        let routed = |host: &mut HostFacts| {
            (host.forwards4, host.half_nat) = (Some(false), vec!["pg".into()]);
        };
        ill(routed, Level::Notice, "forwarding", &["servers of pg", "nobody but clients"]);
    }

    #[test]
    fn without_ethtool_drivers_are_silent() {
        let words = ["not installed", "apt-get install ethtool"];
        ill(|host| host.has_ethtool = false, Level::Notice, "ethtool", &words);
    }

    #[test]
    fn descriptors_are_for_both_sides_of_a_connection() {
        let few = |host: &mut HostFacts| host.descriptors = Some(19_999);
        ill(few, Level::Notice, "descriptors", &["19999", "20000", "LimitNOFILE=21024"]);
        let mut host = healthy();
        (host.descriptors, host.connections) = (Some(1), 0);
        check_good(&findings(&host));
    }

    #[test]
    fn a_small_table_of_netfilter_is_noticed_and_a_full_one_a_problem() {
        let small = |host: &mut HostFacts| host.tracked = Some((10, 8192));
        ill(small, Level::Notice, "netfilter", &["8192", "nf_conntrack_max=32768"]);
        let full = |host: &mut HostFacts| host.tracked = Some((262_000, 262_144));
        ill(full, Level::Problem, "netfilter", &["262000", "nf_conntrack_max=524288"]);
        // No rule asks for connections to be tracked.
        let mut host = healthy();
        host.tracked = Some((0, 8192));
        check_good(&findings(&host));
    }
}
