//! The kernel: what it has, what it lets us do, the BPF file system.

use std::path::Path;

use super::{
    super::facts::{HostFacts, PinFacts},
    Finding,
};

/// The oldest kernel that has everything the data plane calls.
const OLDEST: (u32, u32) = (5, 15);
/// The oldest kernel that attaches classifiers by links of their own (`tcx`).
const WITH_TCX: (u32, u32) = (6, 6);
/// `net.core.bpf_jit_harden`: programs of root, too.
const HARDENED_FOR_ALL: u32 = 2;

pub(super) fn findings(host: &HostFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(host.kernel.map(version));
    findings.push(btf(host.btf));
    findings.extend(host.jit.map(jit));
    findings.extend(host.jit_harden.and_then(harden));
    findings.extend(host.unprivileged_bpf.and_then(unprivileged));
    findings.extend(host.lockdown.as_deref().and_then(lockdown));
    findings.extend(cookies(host.has_cookies, &host.wants_cookies));
    findings.extend(host.kernel.and_then(|kernel| checks(kernel, &host.checked_as_traffic)));
    findings.push(pins(&host.pins));
    findings.extend(host.pins.others.iter().map(|(path, links)| {
        let path = path.display();
        let text = match links.as_slice() {
            [] => format!("{path} holds a data plane that no agent looks after"),
            links => format!(
                "{path} holds a data plane that no agent looks after; {} forwards by it",
                links.join(", ")
            ),
        };
        Finding::notice("bpffs", text, format!("rm -r {path}"))
    }));
    findings
}

fn version((major, minor): (u32, u32)) -> Finding {
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

fn harden(setting: u32) -> Option<Finding> {
    let text = "constants in programs of root are blinded, too, which makes them slower";
    let remedy = "sysctl -w net.core.bpf_jit_harden=1";
    (setting == HARDENED_FOR_ALL).then(|| Finding::notice("BPF compiler", text, remedy))
}

fn unprivileged(setting: u32) -> Option<Finding> {
    let text = "every user may load BPF programs, which helps attacks of the kind of Spectre";
    let remedy = "sysctl -w kernel.unprivileged_bpf_disabled=2";
    (setting == 0).then(|| Finding::notice("BPF privilege", text, remedy))
}

fn lockdown(mode: &str) -> Option<Finding> {
    let text = "confidentiality: the data plane works, tracepoints and perf do not, by which \
                losses in drivers are found";
    let remedy = "boot with lockdown=integrity";
    (mode == "confidentiality").then(|| Finding::notice("lockdown", text, remedy))
}

fn cookies(has: bool, wanted_by: &[String]) -> Option<Finding> {
    if wanted_by.is_empty() {
        return None;
    }
    if has {
        return Some(Finding::good("SYN cookies", "the kernel makes them for XDP programs"));
    }
    let text = format!(
        "the kernel makes none for XDP programs: {} does nothing, a flood of SYNs pushes \
         half-open flows out",
        wanted_by.join(", ")
    );
    let remedy = "boot Linux 6.0 or later, built with CONFIG_SYN_COOKIES=y";
    Some(Finding::notice("SYN cookies", text, remedy))
}

fn checks((major, minor): (u32, u32), as_traffic: &[String]) -> Option<Finding> {
    if as_traffic.is_empty() || (major, minor) >= WITH_TCX {
        return None;
    }
    let (wanted, backends) =
        (format!("Linux {}.{}", WITH_TCX.0, WITH_TCX.1), as_traffic.join(", "));
    let text = format!(
        "checks `via: vip` need {wanted}, this is {major}.{minor}: the agent does not start with \
         backends {backends}"
    );
    let remedy = format!("boot {wanted} or later, or check with `via: server`");
    Some(Finding::problem("checks", text, remedy))
}

fn pins(pins: &PinFacts) -> Finding {
    let directory = pins.directory.display();
    let usual = Path::new("/sys/fs/bpf");
    let mount_point =
        if pins.directory.starts_with(usual) { usual } else { pins.directory.as_path() };
    let mount_point = mount_point.display();
    if !pins.is_on_bpffs {
        let text = format!("{directory} is not on a BPF file system");
        return Finding::problem("bpffs", text, format!("mount -t bpf bpf {mount_point}"));
    }
    if pins.is_read_only {
        let text = format!("{directory} is on a BPF file system that is mounted read-only");
        return Finding::problem("bpffs", text, format!("mount -o remount,rw {mount_point}"));
    }
    Finding::good("bpffs", format!("{directory} is on a BPF file system"))
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
    fn a_healthy_kernel_has_nothing_to_mend() {
        check_good(&findings(&healthy()));
    }

    #[test]
    fn a_kernel_that_can_not_do_it_is_a_problem() {
        ill(|host| host.kernel = Some((5, 10)), Level::Problem, "kernel", &["5.10", "5.15"]);
        ill(|host| host.btf = false, Level::Problem, "BTF", &["CONFIG_DEBUG_INFO_BTF=y"]);
        ill(|host| host.jit = Some(0), Level::Problem, "BPF compiler", &["bpf_jit_enable=1"]);
    }

    #[test]
    fn settings_that_slow_down_or_open_up_are_noticed() {
        let blind = |host: &mut HostFacts| host.jit_harden = Some(2);
        ill(blind, Level::Notice, "BPF compiler", &["bpf_jit_harden=1"]);
        let open = |host: &mut HostFacts| host.unprivileged_bpf = Some(0);
        ill(open, Level::Notice, "BPF privilege", &["unprivileged_bpf_disabled=2"]);
        let shut = |host: &mut HostFacts| host.lockdown = Some("confidentiality".into());
        ill(shut, Level::Notice, "lockdown", &["lockdown=integrity"]);
        let mut host = healthy();
        host.lockdown = Some("integrity".into());
        check_good(&findings(&host));
    }

    #[test]
    fn cookies_are_missed_only_by_who_wants_them() {
        let lacks = |host: &mut HostFacts| host.has_cookies = false;
        let words = ["frontends.web.syn_cookies does nothing", "Linux 6.0", "CONFIG_SYN_COOKIES"];
        ill(lacks, Level::Notice, "SYN cookies", &words);
        let mut host = healthy();
        (host.has_cookies, host.wants_cookies) = (false, Vec::new());
        check_good(&findings(&host));
    }

    #[test]
    fn checks_the_way_of_traffic_need_a_newer_kernel() {
        let old = |host: &mut HostFacts| host.kernel = Some((6, 1));
        ill(old, Level::Problem, "checks", &["Linux 6.6", "6.1", "web", "via: server"]);
        let mut host = healthy();
        (host.kernel, host.checked_as_traffic) = (Some((6, 1)), Vec::new());
        check_good(&findings(&host));
    }

    #[test]
    fn pins_need_a_place_that_can_be_written() {
        let none = |host: &mut HostFacts| host.pins.is_on_bpffs = false;
        ill(none, Level::Problem, "bpffs", &["mount -t bpf bpf /sys/fs/bpf"]);
        let elsewhere = |host: &mut HostFacts| {
            host.pins.is_on_bpffs = false;
            host.pins.directory = "/run/pins".into();
        };
        ill(elsewhere, Level::Problem, "bpffs", &["mount -t bpf bpf /run/pins"]);
        let read_only = |host: &mut HostFacts| host.pins.is_read_only = true;
        ill(read_only, Level::Problem, "bpffs", &["read-only", "remount,rw /sys/fs/bpf"]);
    }

    #[test]
    fn what_another_agent_left_is_noticed() {
        let old = |links: &[&str]| {
            ("/sys/fs/bpf/old".into(), links.iter().map(ToString::to_string).collect())
        };
        let left = |host: &mut HostFacts| host.pins.others = vec![old(&["eth1"])];
        ill(left, Level::Notice, "bpffs", &["eth1 forwards by it", "rm -r /sys/fs/bpf/old"]);
        let left = |host: &mut HostFacts| host.pins.others = vec![old(&[])];
        ill(left, Level::Notice, "bpffs", &["no agent looks after", "rm -r /sys/fs/bpf/old"]);
    }
}
