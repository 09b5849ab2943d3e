//! Interfaces: whether they are there, what is attached to them, and how packets arrive.

use super::{
    super::facts::{InterfaceFacts, LinkFacts, ProgramFacts},
    Finding,
};
use crate::{cli::status::mode_name, model::snapshot::AttachMode};

/// Offloads that glue received packets together before XDP sees them; packets larger than
/// a page are not for the data plane.
const GLUE: [(&str, &str); 2] = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];
/// Strict reverse path filtering (`ip-sysctl.rst`).
const STRICT: u32 = 1;

pub(super) fn findings(interfaces: &[InterfaceFacts], processors: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    for interface in interfaces {
        let subject = format!("interface {}", interface.name);
        let Some(link) = &interface.link else {
            let text = "there is no such Ethernet interface";
            findings.push(Finding::problem(&subject, text, "ip -brief link"));
            continue;
        };
        findings.push(state(&subject, &interface.name, *link));
        findings.extend(program(&subject, interface));
        findings.extend(glue(&subject, interface));
        findings.extend(queues(&subject, interface, processors));
        findings.extend(interrupts(&subject, interface, processors));
        let several = interfaces.len() > 1;
        findings.extend(rp_filter(&subject, interface).filter(|_| several));
    }
    findings.extend(mtu(interfaces));
    findings
}

fn state(subject: &str, name: &str, link: LinkFacts) -> Finding {
    if link.up {
        return Finding::good(subject, format!("up, MTU {}", link.mtu));
    }
    let text = "is down, or has no carrier";
    Finding::problem(subject, text, format!("ip link set dev {name} up"))
}

fn program(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let name = &interface.name;
    let ProgramFacts { id, generic, ours } = interface.program?;
    if !ours {
        let text = format!("XDP program {id} is attached, and it is not ours");
        let remedy = format!("bpftool net show dev {name}; ip link set dev {name} xdp off");
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

fn queues(subject: &str, interface: &InterfaceFacts, processors: usize) -> Option<Finding> {
    // Without an interrupt of its own it is no hardware: its queues are not the limit.
    let queues = interface.queues.filter(|_| !interface.interrupts.is_empty())?;
    if queues >= processors {
        return None;
    }
    let text = format!("{queues} receive queues for {processors} processors: the others idle");
    let remedy = format!("ethtool -L {} combined {processors}", interface.name);
    Some(Finding::notice(subject, text, remedy))
}

fn interrupts(subject: &str, interface: &InterfaceFacts, processors: usize) -> Option<Finding> {
    let (first, rest) = interface.interrupts.split_first()?;
    let queues = interface.queues.unwrap_or(1);
    let single = !first.contains(['-', ',']);
    if processors < 2 || queues < 2 || !single || rest.iter().any(|other| other != first) {
        return None;
    }
    let text = format!("all of its interrupts go to processor {first}");
    Some(Finding::notice(subject, text, "apt-get install irqbalance"))
}

fn rp_filter(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let text = "drops what it would not route back the same way (rp_filter is strict), which \
                breaks checks and traffic that the kernel handles";
    let remedy = format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.name);
    (interface.rp_filter == Some(STRICT)).then(|| Finding::notice(subject, text, remedy))
}

/// A packet that came in has to fit everywhere.
fn mtu(interfaces: &[InterfaceFacts]) -> Option<Finding> {
    let known = || interfaces.iter().filter_map(|one| Some((one.link?.mtu, &one.name)));
    let ((least, narrow), (most, wide)) = (known().min()?, known().max()?);
    if least == most {
        return None;
    }
    let text = format!(
        "{wide} takes packets of {most} bytes, {narrow} only of {least}: larger ones are dropped"
    );
    Some(Finding::notice("MTU", text, format!("ip link set dev {wide} mtu {least}")))
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

    fn healthy() -> InterfaceFacts {
        InterfaceFacts {
            name: "eth0".into(),
            link: Some(LinkFacts { up: true, mtu: 1500 }),
            wanted: Some(AttachMode::Auto),
            program: Some(ProgramFacts { id: 7, generic: false, ours: true }),
            driver: Some("ixgbe".into()),
            queues: Some(4),
            interrupts: ["0", "1", "2", "3"].map(str::to_owned).to_vec(),
            offloads: [("large-receive-offload".to_owned(), false)].into(),
            rp_filter: Some(2),
        }
    }

    #[track_caller]
    fn ill(change: impl FnOnce(&mut InterfaceFacts), level: Level, words: &[&str]) {
        let (mut one, mut two) = (healthy(), healthy());
        change(&mut one);
        two.name = "eth1".into();
        check(&findings(&[one, two], 4), level, "interface eth0", words);
    }

    #[test]
    fn a_healthy_interface_has_nothing_to_mend() {
        check_good(&findings(&[healthy()], 4));
        let bare = InterfaceFacts { link: healthy().link, ..InterfaceFacts::default() };
        check_good(&findings(&[bare], 4));
    }

    #[test]
    fn an_interface_that_carries_nothing_is_a_problem() {
        ill(|one| one.link = None, Level::Problem, &["no such", "ip -brief link"]);
        let down = Some(LinkFacts { up: false, mtu: 1500 });
        ill(|one| one.link = down, Level::Problem, &["down", "ip link set dev eth0 up"]);
    }

    #[test]
    fn another_program_is_a_problem_and_generic_mode_is_noticed() {
        let other = Some(ProgramFacts { id: 9, generic: false, ours: false });
        ill(|one| one.program = other, Level::Problem, &["program 9", "xdp off"]);
        let generic = Some(ProgramFacts { id: 7, generic: true, ours: true });
        ill(|one| one.program = generic, Level::Notice, &["generic", "ixgbe"]);
        let mut meant = healthy();
        (meant.program, meant.wanted) = (generic, Some(AttachMode::Generic));
        check_good(&findings(&[meant], 4));
    }

    #[test]
    fn offloads_that_glue_packets_are_a_problem() {
        let on = |one: &mut InterfaceFacts| {
            one.offloads.insert("large-receive-offload".into(), true);
        };
        ill(on, Level::Problem, &["ethtool -K eth0 lro off"]);
    }

    #[test]
    fn few_queues_and_crowded_interrupts_are_noticed() {
        ill(|one| one.queues = Some(2), Level::Notice, &["2 receive queues", "combined 4"]);
        let crowded = |one: &mut InterfaceFacts| one.interrupts = vec!["0".into(); 4];
        ill(crowded, Level::Notice, &["processor 0", "irqbalance"]);
        let anywhere = |one: &mut InterfaceFacts| one.interrupts = vec!["0-3".into(); 4];
        let mut one = healthy();
        anywhere(&mut one);
        check_good(&findings(&[one], 4));
    }

    #[test]
    fn strict_filtering_matters_with_several_interfaces() {
        ill(|one| one.rp_filter = Some(1), Level::Notice, &["conf.eth0.rp_filter=2"]);
        check_good(&findings(&[InterfaceFacts { rp_filter: Some(1), ..healthy() }], 4));
    }

    #[test]
    fn interfaces_of_different_mtu_are_noticed() {
        let wide = InterfaceFacts {
            name: "wide".into(),
            link: Some(LinkFacts { up: true, mtu: 9000 }),
            ..healthy()
        };
        let words = ["9000", "1500", "ip link set dev wide mtu 1500"];
        check(&findings(&[healthy(), wide], 4), Level::Notice, "MTU", &words);
    }
}
