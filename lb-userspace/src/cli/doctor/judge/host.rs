//! The machine: kernel, memory, clock, ports.

use super::{super::facts::HostFacts, Finding};
use crate::cli::units;

/// The oldest kernel that has everything the data plane calls.
const OLDEST: (u32, u32) = (5, 15);
/// Clock sources that are read without leaving the processor.
const FAST_CLOCKS: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen", "timebase"];

pub(super) fn findings(host: &HostFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(host.kernel.map(kernel));
    findings.push(btf(host.btf));
    findings.extend(host.jit.map(jit));
    findings.push(pins(host));
    findings.extend(memory(host));
    findings.extend(host.clocksource.as_deref().map(clocksource));
    findings.extend(host.synchronised.map(synchronised));
    findings.extend(ports(host));
    findings.extend(forwarding(host));
    findings
}

fn kernel((major, minor): (u32, u32)) -> Finding {
    if (major, minor) < OLDEST {
        let text = format!("Linux {major}.{minor} is older than {}.{}", OLDEST.0, OLDEST.1);
        return Finding::problem("kernel", text, "apt-get install linux-image-amd64, and reboot");
    }
    Finding::good("kernel", format!("Linux {major}.{minor}"))
}

fn btf(there: bool) -> Finding {
    if there {
        return Finding::good("BTF", "the kernel describes its types");
    }
    let remedy = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    Finding::problem("BTF", "there is no /sys/kernel/btf/vmlinux", remedy)
}

fn jit(setting: u32) -> Finding {
    if setting == 0 {
        let remedy = "sysctl -w net.core.bpf_jit_enable=1";
        return Finding::problem("BPF compiler", "BPF programs are interpreted", remedy);
    }
    Finding::good("BPF compiler", "on")
}

fn pins(host: &HostFacts) -> Finding {
    let (directory, mounted) = &host.pins;
    let directory = directory.display();
    if *mounted {
        return Finding::good("bpffs", format!("{directory} is on a BPF file system"));
    }
    let text = format!("{directory} is not on a BPF file system");
    Finding::problem("bpffs", text, "mount -t bpf bpf /sys/fs/bpf")
}

fn memory(host: &HostFacts) -> Option<Finding> {
    // Without a configuration nobody needs any.
    let needed = Some(host.memory_needed).filter(|needed| *needed > 0)?;
    if let Some(limit) = host.memory_limit.filter(|limit| *limit < needed) {
        let text = format!(
            "the flow tables take {}, the agent's control group may use {}",
            units::bytes(needed),
            units::bytes(limit)
        );
        let remedy = "systemctl set-property pointsman.service MemoryMax=infinity";
        return Some(Finding::problem("memory", text, remedy));
    }
    let free = host.memory_free?;
    let text =
        format!("the flow tables take {}, {} are free", units::bytes(needed), units::bytes(free));
    Some(if free < needed {
        let remedy = "lower datapath.max_flows and datapath.max_half_open";
        Finding::problem("memory", text, remedy)
    } else {
        Finding::good("memory", text)
    })
}

fn clocksource(source: &str) -> Finding {
    if FAST_CLOCKS.contains(&source) {
        return Finding::good("clock source", source);
    }
    let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let text = format!("{source} is slow to read, and slows down every use of the time");
    Finding::notice("clock source", text, format!("echo tsc > {file}"))
}

fn synchronised(synchronised: bool) -> Finding {
    if synchronised {
        return Finding::good("clock", "in step with other clocks");
    }
    let text = "not in step with other clocks; times in logs may be wrong";
    Finding::notice("clock", text, "timedatectl set-ntp true")
}

/// A port that the host opens towards a server must not be one that SNAT gives out.
fn ports(host: &HostFacts) -> Option<Finding> {
    let (local, snat) = (host.local_ports?, host.snat_ports?);
    if local.0 > snat.1 || snat.0 > local.1 {
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
            let text = format!(
                "the kernel does not forward {name}: there is no fallback for servers whose \
                 neighbour entry is not known"
            );
            Finding::notice("forwarding", text, format!("sysctl -w {key}=1"))
        })
    };
    let four = off(host.forwards4, "IPv4", "net.ipv4.ip_forward");
    let six = off(host.forwards6, "IPv6", "net.ipv6.conf.all.forwarding");
    four.into_iter().chain(six).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Level,
            tests::{check, check_good},
        },
        *,
    };

    fn healthy() -> HostFacts {
        HostFacts {
            kernel: Some((6, 1)),
            btf: true,
            jit: Some(1),
            pins: ("/sys/fs/bpf/pointsman".into(), true),
            clocksource: Some("tsc".into()),
            synchronised: Some(true),
            memory_free: Some(8 << 30),
            memory_limit: None,
            memory_needed: 1 << 28,
            processors: 4,
            local_ports: Some((32_768, 60_999)),
            snat_ports: Some((1024, 32_767)),
            forwards4: Some(true),
            forwards6: Some(true),
        }
    }

    #[track_caller]
    fn ill(change: impl FnOnce(&mut HostFacts), level: Level, subject: &str, words: &[&str]) {
        let mut host = healthy();
        change(&mut host);
        check(&findings(&host), level, subject, words);
    }

    #[test]
    fn a_healthy_machine_has_nothing_to_mend() {
        check_good(&findings(&healthy()));
    }

    #[test]
    fn a_kernel_that_can_not_do_it_is_a_problem() {
        ill(|host| host.kernel = Some((5, 10)), Level::Problem, "kernel", &["5.10", "5.15"]);
        ill(|host| host.btf = false, Level::Problem, "BTF", &["CONFIG_DEBUG_INFO_BTF=y"]);
        ill(|host| host.jit = Some(0), Level::Problem, "BPF compiler", &["bpf_jit_enable=1"]);
        ill(|host| host.pins.1 = false, Level::Problem, "bpffs", &["mount -t bpf"]);
    }

    #[test]
    fn tables_that_do_not_fit_are_a_problem() {
        let words = ["256.0 MiB", "1.0 MiB", "datapath.max_flows"];
        ill(|host| host.memory_free = Some(1 << 20), Level::Problem, "memory", &words);
        let words = ["256.0 MiB", "128.0 MiB", "MemoryMax"];
        ill(|host| host.memory_limit = Some(1 << 27), Level::Problem, "memory", &words);
    }

    #[test]
    fn clocks_that_are_slow_or_alone_are_noticed() {
        let slow = |host: &mut HostFacts| host.clocksource = Some("hpet".into());
        ill(slow, Level::Notice, "clock source", &["hpet", "echo tsc"]);
        ill(|host| host.synchronised = Some(false), Level::Notice, "clock", &["timedatectl"]);
    }

    #[test]
    fn ports_that_both_the_host_and_snat_use_are_a_problem() {
        let words = ["10000-60999", "1024-32767", "ip_local_port_range=\"32768 60999\""];
        ill(|host| host.local_ports = Some((10_000, 60_999)), Level::Problem, "ports", &words);
        let high = |host: &mut HostFacts| host.snat_ports = Some((1024, 65_535));
        ill(high, Level::Problem, "ports", &["set datapath.snat_ports"]);
    }

    #[test]
    fn a_host_that_does_not_forward_is_noticed() {
        ill(|host| host.forwards4 = Some(false), Level::Notice, "forwarding", &["ip_forward=1"]);
        let six = ["net.ipv6.conf.all.forwarding=1"];
        ill(|host| host.forwards6 = Some(false), Level::Notice, "forwarding", &six);
    }
}
