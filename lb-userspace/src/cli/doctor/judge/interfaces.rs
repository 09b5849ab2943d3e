//! Interfaces: whether they are there, what is attached to them, and how packets arrive.

use super::{
    super::facts::{InterfaceFacts, LinkFacts, ProgramFacts},
    Finding, devices, queues,
};
use crate::{cli::status::mode_name, model::snapshot::AttachMode};

/// Offloads that glue received packets together before XDP sees them; packets larger than
/// a page are not for the data plane.
const GLUE: [(&str, &str); 2] = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];
/// The program by which libxdp runs several on one interface.
const DISPATCHER: &str = "xdp_dispatcher";
/// Strict reverse path filtering (`ip-sysctl.rst`).
const STRICT: u32 = 1;

/// Of each interface; whether an agent runs, which should have attached a program.
pub(super) fn findings(
    interfaces: &[InterfaceFacts],
    processors: usize,
    has_agent: bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for interface in interfaces {
        let subject = format!("interface {}", interface.name);
        let Some(link) = &interface.link else {
            let text = "there is no such Ethernet interface";
            findings.push(Finding::problem(&subject, text, "ip -brief link"));
            continue;
        };
        findings.push(state(&subject, &interface.name, *link));
        findings.extend(program(&subject, interface, has_agent));
        findings.extend(devices::findings(&subject, interface));
        findings.extend(glue(&subject, interface));
        findings.extend(queues::findings(&subject, interface, processors));
        findings.extend(filters(&subject, interface));
        let several = interfaces.len() > 1;
        findings.extend(rp_filter(&subject, interface).filter(|_| several));
    }
    findings
}

fn state(subject: &str, name: &str, link: LinkFacts) -> Finding {
    if link.up {
        return Finding::good(subject, format!("up, MTU {}", link.mtu));
    }
    let text = "is down, or has no carrier";
    Finding::problem(subject, text, format!("ip link set dev {name} up"))
}

fn program(subject: &str, interface: &InterfaceFacts, has_agent: bool) -> Option<Finding> {
    let name = &interface.name;
    let Some(program) = &interface.program else {
        let text = "has no XDP program although an agent runs: nothing is forwarded from here";
        return has_agent.then(|| Finding::problem(subject, text, "pointsman status"));
    };
    let ProgramFacts { id, generic, ours, .. } = *program;
    if !ours {
        let called = program.name.as_deref().unwrap_or("without a name");
        let text = format!("XDP program {id} ({called}) is attached, and it is not ours");
        let remedy = match called {
            // Of libxdp: programs share an interface behind it. A link of its own holds it.
            DISPATCHER => format!("xdp-loader status {name}; xdp-loader unload {name} --all"),
            _ => format!("bpftool net show dev {name}; ip link set dev {name} xdp off"),
        };
        return Some(Finding::problem(subject, text, remedy));
    }
    let accepted = interface.wanted == Some(AttachMode::Generic);
    if generic && !accepted {
        let driver = interface.driver.as_deref().unwrap_or("its driver");
        let text = format!("forwards in generic mode, several times slower than native ({driver})");
        let remedy = "use a network card whose driver has native XDP, or set datapath.mode: \
                      generic to say that this is meant";
        return Some(Finding::notice(subject, text, remedy));
    }
    let mode = if generic { AttachMode::Generic } else { AttachMode::Native };
    Some(Finding::good(subject, format!("XDP program {id} attached, {}", mode_name(mode))))
}

fn glue<'a>(subject: &'a str, interface: &'a InterfaceFacts) -> impl Iterator<Item = Finding> + 'a {
    let on = GLUE.iter().filter(|(name, _)| interface.offloads.get(*name) == Some(&true));
    on.map(move |(name, option)| {
        let text = format!("{name} is on: packets are glued together before XDP sees them");
        let remedy = format!("ethtool -K {} {option} off", interface.name);
        Finding::problem(subject, text, remedy)
    })
}

fn rp_filter(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let text = "drops what it would not route back the same way (rp_filter is strict), which \
                breaks checks and traffic that the kernel handles";
    let remedy = format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.name);
    (interface.rp_filter == Some(STRICT)).then(|| Finding::notice(subject, text, remedy))
}

/// XDP comes before tc on the way in, and packets that it sends do not come by there at all.
fn filters(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    if interface.filters.is_empty() {
        return None;
    }
    let name = &interface.name;
    let text = format!(
        "has filters of tc ({}), which do not see what is forwarded",
        interface.filters.join(", ")
    );
    let remedy = format!("tc filter show dev {name} ingress; bpftool net show dev {name}");
    Some(Finding::notice(subject, text, remedy))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Level,
            tests::{check, check_good, healthy_interface as healthy},
        },
        *,
    };

    #[track_caller]
    fn ill(change: impl FnOnce(&mut InterfaceFacts), level: Level, words: &[&str]) {
        let (mut one, mut two) = (healthy(), healthy());
        change(&mut one);
        two.name = "eth1".into();
        check(&findings(&[one, two], 4, true), level, "interface eth0", words);
    }

    #[test]
    fn a_healthy_interface_has_nothing_to_mend() {
        check_good(&findings(&[healthy()], 4, true));
        let bare = InterfaceFacts { link: healthy().link, ..InterfaceFacts::default() };
        check_good(&findings(&[bare], 4, false));
    }

    #[test]
    fn an_interface_that_carries_nothing_is_a_problem() {
        ill(|one| one.link = None, Level::Problem, &["no such", "ip -brief link"]);
        let down = Some(LinkFacts { up: false, mtu: 1500 });
        ill(|one| one.link = down, Level::Problem, &["down", "ip link set dev eth0 up"]);
    }

    #[test]
    fn another_program_is_a_problem_and_generic_mode_is_noticed() {
        let other =
            Some(ProgramFacts { id: 9, name: Some("fw".into()), generic: false, ours: false });
        ill(|one| one.program = other, Level::Problem, &["program 9 (fw)", "xdp off"]);
        let shared =
            ProgramFacts { id: 9, name: Some(DISPATCHER.into()), ..ProgramFacts::default() };
        let words = ["xdp_dispatcher", "xdp-loader unload eth0 --all"];
        ill(|one| one.program = Some(shared), Level::Problem, &words);
        ill(|one| one.program = None, Level::Problem, &["no XDP program", "pointsman status"]);
        let generic = Some(ProgramFacts { id: 7, name: None, generic: true, ours: true });
        let other = generic.clone();
        ill(|one| one.program = other, Level::Notice, &["generic", "ixgbe"]);
        let mut meant = healthy();
        (meant.program, meant.wanted) = (generic, Some(AttachMode::Generic));
        check_good(&findings(&[meant], 4, true));
    }

    #[test]
    fn offloads_that_glue_packets_are_a_problem() {
        let on = |one: &mut InterfaceFacts| {
            one.offloads.insert("large-receive-offload".into(), true);
        };
        ill(on, Level::Problem, &["ethtool -K eth0 lro off"]);
    }

    #[test]
    fn strict_filtering_matters_with_several_interfaces() {
        ill(|one| one.rp_filter = Some(1), Level::Notice, &["conf.eth0.rp_filter=2"]);
        check_good(&findings(&[InterfaceFacts { rp_filter: Some(1), ..healthy() }], 4, true));
    }

    #[test]
    fn filters_that_see_nothing_are_noticed() {
        let words = ["ingress bpf", "do not see", "tc filter show dev eth0 ingress"];
        ill(|one| one.filters = vec!["ingress bpf".into()], Level::Notice, &words);
    }
}
