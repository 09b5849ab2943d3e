//! `GET /v1/access`, `POST /v1/access` and `POST /v1/limits`: lists of sources and limits as
//! the operator changes them at run time. The same words are in the agent's state file.

use hyper::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    blocks::{read_frontend, read_network},
    routes::{Refusal, read_name},
};
use crate::model::{
    access::{RateLimit, SourceLimits},
    name::Name,
};

const ACCESS_HINT: &str = r#"send a JSON object such as {"source": "192.0.2.0/24", "frontend": "web", "says": "deny"}; says is allow, deny, unlisted or configured, without frontend it is the node's list"#;
const LIMITS_HINT: &str = r#"send a JSON object such as {"frontend": "web", "new_flows": {"rate": 50, "burst": 200}, "packets": "none", "connections_per_source": "configured"}; what is left out stays"#;

/// What is said of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
    /// It is on neither list, whatever is configured.
    Unlisted,
    /// What the configuration says; what was said before is taken back.
    Configured,
}

/// A network of which something is said at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessEntry {
    /// An address or a network.
    pub source: String,
    /// The frontend whose list it is; none for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// What is said of it.
    pub says: Says,
}

/// Body of `POST /v1/access`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSet {
    /// An address or a network.
    pub source: String,
    /// The frontend whose list it is; none for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// What is said of it.
    pub says: Says,
    /// Also if the list then lets nobody else in, or everybody.
    #[serde(default)]
    pub force: bool,
}

/// A limit as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LimitSet<T> {
    /// This one.
    Value(T),
    /// None, or the configured one.
    Word(LimitWord),
}

/// What can stand for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitWord {
    /// No limit.
    None,
    /// What the configuration says.
    Configured,
}

/// A rate as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSet {
    /// A second, on average.
    pub rate: u32,
    /// At once; as many as `rate` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Body of `POST /v1/limits`: what a frontend of layer 4 takes from one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSet {
    /// The frontend.
    pub frontend: String,
    /// New flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flows: Option<LimitSet<RateSet>>,
    /// Packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<LimitSet<RateSet>>,
    /// Established flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_source: Option<LimitSet<u32>>,
}

/// Answer to all of them: everything that was said at run time and was not taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessView {
    /// Of networks.
    pub entries: Vec<AccessEntry>,
    /// Of limits, by frontend.
    pub limits: Vec<LimitsSet>,
}

/// What is said of a network, asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessOrder {
    /// Whose list, and which network, in canonical form.
    pub id: (Option<Name>, IpNet),
    /// What is said.
    pub says: Says,
    /// Also if the list changes its kind.
    pub force: bool,
}

/// New limits, asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsOrder {
    /// The frontend.
    pub frontend: Name,
    /// What is set.
    pub set: LimitsSet,
}

impl AccessEntry {
    /// The entry with its names read.
    ///
    /// # Errors
    /// [`Refusal`] if they are none.
    pub fn read(&self) -> Result<((Option<Name>, IpNet), Says), Refusal> {
        Ok(((read_frontend(self.frontend.clone())?, read_network(&self.source)?), self.says))
    }
}

impl<T: Copy> LimitSet<T> {
    /// What is in force of `set` and what is configured.
    pub fn apply<U: From<T>>(set: Option<&Self>, configured: Option<U>) -> Option<U> {
        match set {
            Some(Self::Value(value)) => Some((*value).into()),
            Some(Self::Word(LimitWord::None)) => None,
            Some(Self::Word(LimitWord::Configured)) | None => configured,
        }
    }
}

impl From<RateSet> for RateLimit {
    fn from(set: RateSet) -> Self {
        Self { per_second: set.rate, burst: set.burst.unwrap_or(set.rate) }
    }
}

impl LimitsSet {
    /// One that says nothing.
    #[must_use]
    pub fn of(frontend: &Name) -> Self {
        let frontend = frontend.to_string();
        Self { frontend, new_flows: None, packets: None, connections_per_source: None }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.new_flows.is_none() && self.packets.is_none() && self.connections_per_source.is_none()
    }

    /// What it says, for a log.
    #[must_use]
    pub fn spoken(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Takes over what `new` says.
    pub fn merge(&mut self, new: &Self) {
        take_over(&mut self.new_flows, new.new_flows);
        take_over(&mut self.packets, new.packets);
        take_over(&mut self.connections_per_source, new.connections_per_source);
    }

    /// The frontend's name, if all of it is good.
    ///
    /// # Errors
    /// [`Refusal`] if it is not.
    pub fn read(&self) -> Result<Name, Refusal> {
        let frontend = read_name("frontend", &self.frontend)?;
        for (what, limit) in [("new_flows", self.new_flows), ("packets", self.packets)] {
            let Some(LimitSet::Value(RateSet { rate, burst })) = limit else { continue };
            within(&format!("{what}.rate"), rate, RateLimit::MAX_PER_SECOND)?;
            within(&format!("{what}.burst"), burst.unwrap_or(rate), RateLimit::MAX_BURST)?;
        }
        if let Some(LimitSet::Value(flows)) = self.connections_per_source {
            within("connections_per_source", flows, SourceLimits::MAX_FLOWS)?;
        }
        Ok(frontend)
    }
}

fn take_over<T>(old: &mut Option<LimitSet<T>>, new: Option<LimitSet<T>>) {
    match new {
        None => {}
        Some(LimitSet::Word(LimitWord::Configured)) => *old = None,
        Some(new) => *old = Some(new),
    }
}

fn within(what: &str, value: u32, most: u32) -> Result<(), Refusal> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    let error = format!("{what} is {value}; it is from 1 to {most}");
    Err(Refusal::new(StatusCode::BAD_REQUEST, error, LIMITS_HINT))
}

pub(super) fn read_access(body: &[u8]) -> Result<AccessOrder, Refusal> {
    let set: AccessSet = serde_json::from_slice(body).map_err(|error| {
        let error = format!("can not read the body: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, error, ACCESS_HINT)
    })?;
    let id = (read_frontend(set.frontend)?, read_network(&set.source)?);
    Ok(AccessOrder { id, says: set.says, force: set.force })
}

pub(super) fn read_limits(body: &[u8]) -> Result<LimitsOrder, Refusal> {
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error, LIMITS_HINT);
    let set: LimitsSet = serde_json::from_slice(body)
        .map_err(|error| bad(format!("can not read the body: {error}")))?;
    if set.says_nothing() {
        return Err(bad("the body sets no limit".into()));
    }
    Ok(LimitsOrder { frontend: set.read()?, set })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_limits_are_read() {
        let order = read_access(br#"{"source": "192.0.2.7", "says": "deny"}"#).unwrap();
        let id = (None, "192.0.2.7/32".parse().unwrap());
        assert_eq!(order, AccessOrder { id, says: Says::Deny, force: false });
        let body = br#"{"frontend": "web", "new_flows": {"rate": 5}, "packets": "none",
                        "connections_per_source": "configured"}"#;
        let LimitsOrder { frontend, set } = read_limits(body).unwrap();
        assert_eq!(frontend.as_str(), "web");
        assert_eq!(set.new_flows, Some(LimitSet::Value(RateSet { rate: 5, burst: None })));
        assert_eq!(set.packets, Some(LimitSet::Word(LimitWord::None)));
        assert_eq!(set.connections_per_source, Some(LimitSet::Word(LimitWord::Configured)));
    }

    #[test]
    fn hostile_bodies_are_refused_with_a_hint() {
        for body in [
            "",
            "{}",
            r#"{"source": "10.0.0.1/8", "says": "deny"}"#,
            r#"{"source": "10.0.0.0/8", "says": "maybe"}"#,
            r#"{"source": "10.0.0.0/8", "says": "deny", "frontend": "a/b"}"#,
            r#"{"source": "10.0.0.0/8", "says": "deny", "until": 1}"#,
        ] {
            let refusal = read_access(body.as_bytes()).expect_err(body);
            assert!(refusal.status == StatusCode::BAD_REQUEST && !refusal.body.hint.is_empty());
        }
        for body in [
            "",
            "{}",
            r#"{"frontend": "web"}"#,
            r#"{"frontend": "a/b", "packets": "none"}"#,
            r#"{"frontend": "web", "packets": "many"}"#,
            r#"{"frontend": "web", "packets": {"rate": 0}}"#,
            r#"{"frontend": "web", "packets": {"rate": 1, "burst": 0}}"#,
            r#"{"frontend": "web", "packets": {"rate": 4294967296}}"#,
            r#"{"frontend": "web", "connections_per_source": 0}"#,
            r#"{"frontend": "web", "connections_per_source": 1000001}"#,
        ] {
            let refusal = read_limits(body.as_bytes()).expect_err(body);
            assert!(refusal.status == StatusCode::BAD_REQUEST && !refusal.body.hint.is_empty());
        }
    }
}
