//! Finding out the facts: files of `/proc` and `/sys`, netlink, `ethtool`, the agent.
//! What can not be read is unknown, and no error.

mod ethtool;
mod files;
mod host;
mod interfaces;
mod servers;

use super::facts::{AgentFacts, Facts};
use crate::{admin::client::Client, model::snapshot::Snapshot, network};

/// Everything there is to know of the machine, and of what the configuration names.
pub(super) async fn facts(snapshot: Option<&Snapshot>) -> anyhow::Result<Facts> {
    let handle = network::open()?;
    let Some(snapshot) = snapshot else {
        let host = host::facts(None, &AgentFacts::Unknown);
        return Ok(Facts { host, ..Facts::default() });
    };
    let agent = agent(snapshot).await;
    let mut facts = Facts { host: host::facts(Some(snapshot), &agent), agent, ..Facts::default() };
    if snapshot.is_in_user_space() {
        facts.is_in_user_space = true;
        return Ok(facts);
    }
    for name in &snapshot.datapath.interfaces {
        facts.interfaces.push(interfaces::facts(&handle, name, snapshot).await);
    }
    facts.servers = servers::facts(&handle, snapshot).await;
    facts.tunnels = servers::tunnels(&handle, snapshot).await;
    Ok(facts)
}

async fn agent(snapshot: &Snapshot) -> AgentFacts {
    match Client::new(&snapshot.admin.socket).get("/v1/status").await {
        Ok(status) => AgentFacts::Answers(Box::new(status)),
        Err(error) => AgentFacts::Silent(format!("{:#}", anyhow::Error::from(error))),
    }
}
