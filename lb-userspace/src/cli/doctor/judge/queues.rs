//! How arriving packets are spread over processors.

use std::collections::BTreeSet;

use super::{super::facts::InterfaceFacts, Finding};

/// Packets that a receive queue should have room for: what comes in about a millisecond while
/// its processor is busy.
const ROOM: u32 = 1024;

pub(super) fn findings(
    subject: &str,
    interface: &InterfaceFacts,
    processors: usize,
) -> impl Iterator<Item = Finding> {
    let spread =
        [queues(subject, interface, processors), interrupts(subject, interface, processors)];
    spread.into_iter().chain([ring(subject, interface)]).flatten()
}

fn queues(subject: &str, interface: &InterfaceFacts, processors: usize) -> Option<Finding> {
    // Without an interrupt of its own it is no hardware: its queues are not the limit.
    let queues = interface.queues.filter(|_| !interface.interrupts.is_empty())?;
    if queues >= processors {
        return None;
    }
    let name = &interface.name;
    let text = format!("receive queues: {queues} for {processors} processors, the others idle");
    let remedy = match interface.most_queues.map(|most| most.min(processors)) {
        Some(most) if most <= queues => {
            format!("{name} has no more; give a virtual machine as many as it has processors")
        }
        most => format!("ethtool -L {name} combined {}", most.unwrap_or(processors)),
    };
    Some(Finding::notice(subject, text, remedy))
}

/// Interrupts that may go to several processors are spread by whoever may, and are left alone.
fn interrupts(subject: &str, interface: &InterfaceFacts, processors: usize) -> Option<Finding> {
    let busy: BTreeSet<&str> = interface.interrupts.iter().map(String::as_str).collect();
    let could = interface.queues.unwrap_or(1).min(processors);
    let any_roams = busy.iter().any(|one| one.contains(['-', ',']));
    if busy.is_empty() || could < 2 || any_roams || busy.len() * 2 > could {
        return None;
    }
    let busy: Vec<_> = busy.into_iter().collect();
    let text = match busy.as_slice() {
        [one] => format!("all of its interrupts go to processor {one}"),
        several => format!("its interrupts all go to processors {}", several.join(", ")),
    };
    let remedy = "apt-get install irqbalance, or for each: echo N > \
                  /proc/irq/IRQ/smp_affinity_list";
    Some(Finding::notice(subject, text, remedy))
}

fn ring(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let (room, most) = interface.ring?;
    let wanted = most.min(ROOM);
    (room < wanted).then(|| {
        let text = format!("its receive queues have room for {room} packets of {most}");
        Finding::notice(subject, text, format!("ethtool -G {} rx {wanted}", interface.name))
    })
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
    fn judge(change: impl FnOnce(&mut InterfaceFacts)) -> Vec<Finding> {
        let mut interface = healthy();
        change(&mut interface);
        findings("interface eth0", &interface, 4).collect()
    }

    #[track_caller]
    fn ill(change: impl FnOnce(&mut InterfaceFacts), words: &[&str]) {
        check(&judge(change), Level::Notice, "interface eth0", words);
    }

    #[test]
    fn few_queues_are_noticed() {
        check_good(&judge(|_| ()));
        ill(|one| one.queues = Some(2), &["queues: 2", "ethtool -L eth0 combined 4"]);
        let limited = |one: &mut InterfaceFacts| {
            (one.queues, one.most_queues) = (Some(1), Some(1));
        };
        ill(limited, &["queues: 1", "has no more", "virtual machine"]);
        let more = |one: &mut InterfaceFacts| {
            (one.queues, one.most_queues) = (Some(1), Some(2));
        };
        ill(more, &["combined 2"]);
        // No hardware, no queue that idles.
        let soft = |one: &mut InterfaceFacts| {
            (one.queues, one.interrupts) = (Some(1), Vec::new());
        };
        check_good(&judge(soft));
    }

    #[test]
    fn crowded_interrupts_are_noticed() {
        let on = |processors: [&str; 4]| {
            let interrupts = processors.map(str::to_owned).to_vec();
            move |one: &mut InterfaceFacts| one.interrupts = interrupts
        };
        ill(on(["0"; 4]), &["processor 0", "irqbalance", "smp_affinity_list"]);
        ill(on(["0", "1", "0", "1"]), &["processors 0, 1"]);
        check_good(&judge(on(["0", "1", "2", "1"])));
        check_good(&judge(on(["0-3"; 4])));
    }

    #[test]
    fn short_rings_are_noticed() {
        ill(|one| one.ring = Some((256, 4096)), &["256", "ethtool -G eth0 rx 1024"]);
        ill(|one| one.ring = Some((256, 512)), &["ethtool -G eth0 rx 512"]);
        check_good(&judge(|one| one.ring = Some((256, 256))));
    }
}
