//! From facts to findings: what is wrong, and the command that mends it. Pure.

mod host;
mod interfaces;
mod servers;

use serde::Serialize;

use super::facts::Facts;

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
        let mut findings = vec![Finding::good("data plane", text)];
        findings.extend(servers::agent(&facts.agent));
        return findings;
    }
    let mut findings = host::findings(&facts.host);
    findings.extend(interfaces::findings(&facts.interfaces, facts.host.processors));
    findings.extend(servers::findings(&facts.servers));
    findings.extend(servers::agent(&facts.agent));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_unknown_is_no_problem() {
        let mut facts = Facts::default();
        (facts.host.btf, facts.host.pins.1) = (true, true);
        check_good(&findings(&facts));
    }
}
