//! From facts to findings: what is wrong, and the command that mends it. Pure.

mod devices;
mod host;
mod interfaces;
mod kernel;
mod queues;
mod servers;
mod sizes;

use serde::Serialize;

use super::facts::{AgentFacts, Facts};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) level: Level,
    /// What it is about: `kernel`, `interface eth0`.
    pub(super) subject: String,
    /// What was found.
    pub(super) text: String,
    /// The command that mends it, or what to do.
    pub(super) remedy: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// Works, but slower or less robust than it could.
    Notice,
    /// Keeps packets from being forwarded, or is about to.
    Problem,
}

impl Finding {
    fn good(subject: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Good, subject: subject.to_owned(), text: text.into(), remedy: None }
    }

    fn notice(subject: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { level: Level::Notice, subject: subject.to_owned(), text: text.into(), remedy }
    }

    fn problem(subject: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::notice(subject, text, remedy) }
    }
}

/// Everything that can be said of the facts, in the order an operator would look.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if facts.is_in_user_space {
        let text = "off; frontends of layer 4 are served in user space, without privilege";
        let mut findings = warnings(&facts.warnings);
        findings.push(Finding::good("data plane", text));
        findings.extend(host::of_proxy(&facts.host));
        findings.extend(servers::agent(&facts.agent));
        return findings;
    }
    let mut findings = warnings(&facts.warnings);
    findings.extend(kernel::findings(&facts.host));
    findings.extend(host::findings(&facts.host));
    let has_agent = matches!(facts.agent, AgentFacts::Answers(_));
    let (interfaces, processors) = (&facts.interfaces, facts.host.processors);
    findings.extend(interfaces::findings(interfaces, processors, has_agent));
    findings.extend(sizes::findings(interfaces, &facts.tunnels));
    findings.extend(servers::findings(&facts.servers));
    findings.extend(servers::agent(&facts.agent));
    findings
}

/// What `pointsman check` warns of.
fn warnings(warnings: &[(String, Option<String>)]) -> Vec<Finding> {
    let finding = |(text, hint): &(String, Option<String>)| {
        let remedy = hint.clone().unwrap_or_else(|| "pointsman check".to_owned());
        Finding::notice("configuration", text, remedy)
    };
    warnings.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::facts::{HostFacts, InterfaceFacts, LinkFacts, PinFacts, ProgramFacts},
        *,
    };
    use crate::{clock::Discipline, model::snapshot::AttachMode, network::Device};

    /// An interface without anything to mend.
    pub(super) fn healthy_interface() -> InterfaceFacts {
        InterfaceFacts {
            name: "eth0".into(),
            link: Some(LinkFacts { up: true, mtu: 1500 }),
            wanted: Some(AttachMode::Auto),
            program: Some(ProgramFacts { id: 7, name: None, generic: false, ours: true }),
            driver: Some("ixgbe".into()),
            device: Device::default(),
            far_end: None,
            queues: Some(4),
            most_queues: Some(64),
            ring: Some((1024, 4096)),
            interrupts: ["0", "1", "2", "3"].map(str::to_owned).to_vec(),
            filters: Vec::new(),
            offloads: [("large-receive-offload".to_owned(), false)].into(),
            rp_filter: Some(2),
        }
    }

    /// A machine without anything to mend.
    pub(super) fn healthy_host() -> HostFacts {
        HostFacts {
            kernel: Some((6, 12)),
            btf: true,
            jit: Some(1),
            jit_harden: Some(1),
            unprivileged_bpf: Some(2),
            lockdown: Some("none".into()),
            has_cookies: true,
            wants_cookies: vec!["frontends.web.syn_cookies".into()],
            checked_as_traffic: vec!["web".into()],
            pins: PinFacts {
                directory: "/sys/fs/bpf/pointsman".into(),
                is_on_bpffs: true,
                ..PinFacts::default()
            },
            clocksource: Some("tsc".into()),
            clock: Some(Discipline { is_synchronised: true, most_error: Duration::from_millis(3) }),
            memory_free: Some(8 << 30),
            memory_limit: None,
            memory_needed: 1 << 28,
            memory_held: None,
            processors: 4,
            local_ports: Some((32_768, 60_999)),
            reserved_ports: Vec::new(),
            snat_ports: Some((1024, 32_767)),
            forwards4: Some(true),
            forwards6: Some(true),
            half_nat: Vec::new(),
            descriptors: Some(1 << 20),
            connections: 10_000,
            has_ethtool: true,
            tracked: Some((10, 262_144)),
        }
    }

    /// One finding of a level, which mentions some words in its text or its remedy.
    #[track_caller]
    pub(super) fn check(findings: &[Finding], level: Level, subject: &str, words: &[&str]) {
        let found: Vec<_> =
            findings.iter().filter(|one| one.level == level && one.subject == subject).collect();
        let [finding] = found[..] else { panic!("{} of {level:?} in {findings:?}", found.len()) };
        let said = format!("{} {}", finding.text, finding.remedy.as_deref().unwrap_or_default());
        for word in words {
            assert!(said.contains(word), "does not say {word:?}: {said}");
        }
    }

    /// Nothing but good findings.
    #[track_caller]
    pub(super) fn check_good(findings: &[Finding]) {
        let bad: Vec<_> = findings.iter().filter(|one| one.level != Level::Good).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    #[test]
    fn without_a_data_plane_what_it_needs_is_no_matter() {
        let facts = Facts { is_in_user_space: true, ..Facts::default() };
        let all = findings(&facts);
        check_good(&all);
        check(&all, Level::Good, "data plane", &["in user space"]);
    }

    #[test]
    fn warnings_of_the_configuration_are_passed_on() {
        let warnings = vec![("2: frontends.a: odd".to_owned(), Some("mend it".to_owned()))];
        let facts = Facts { is_in_user_space: true, warnings, ..Facts::default() };
        let words = ["2: frontends.a: odd", "mend it"];
        check(&findings(&facts), Level::Notice, "configuration", &words);
    }

    #[test]
    fn what_is_unknown_is_no_problem() {
        let mut facts = Facts::default();
        (facts.host.btf, facts.host.pins.is_on_bpffs) = (true, true);
        facts.host.has_ethtool = true;
        check_good(&findings(&facts));
    }
}
