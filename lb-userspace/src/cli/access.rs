//! `pointsman access`: lists of sources, and limits of layer 4, changed without a reload.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::{
    AgentArgs, Outcome, ask,
    block::{parse_name, parse_network},
    output::{Lean, Output, table},
};
use crate::{
    admin::access::{AccessSet, AccessView, LimitSet, LimitWord, LimitsSet, RateSet, Says},
    model::name::Name,
};

/// What to do with lists and limits.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// List what was changed at run time
    List(AgentArgs),
    /// Put a network on the list of those that may be clients
    Allow(EntryArgs),
    /// Put a network on the list of those that may not
    Deny(EntryArgs),
    /// Take a network off both lists, also one that is configured
    Unlist(EntryArgs),
    /// Go back to what the configuration says of a network
    Reset(EntryArgs),
    /// Change what a frontend takes from one source
    Limit(LimitArgs),
}

/// A network and whose list.
#[derive(Debug, Args)]
pub struct EntryArgs {
    /// Whom: an address or a network
    #[arg(value_name = "ADDRESS/CIDR", value_parser = parse_network)]
    pub source: IpNet,
    /// On this frontend's list and not on the node's
    #[arg(long, value_name = "FRONTEND", value_parser = parse_name)]
    pub frontend: Option<Name>,
    /// Also if the list then lets nobody else in, or everybody
    #[arg(long)]
    pub force: bool,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Limits.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("limit").required(true).multiple(true))]
pub struct LimitArgs {
    /// The frontend
    #[arg(value_parser = parse_name)]
    pub frontend: Name,
    /// New flows: a second, and at once
    #[arg(long, value_name = "RATE[/BURST]|none|configured", value_parser = parse_rate, group = "limit")]
    pub new_flows: Option<LimitSet<RateSet>>,
    /// Packets: a second, and at once
    #[arg(long, value_name = "RATE[/BURST]|none|configured", value_parser = parse_rate, group = "limit")]
    pub packets: Option<LimitSet<RateSet>>,
    /// Established flows
    #[arg(long, value_name = "COUNT|none|configured", value_parser = parse_count, group = "limit")]
    pub connections_per_source: Option<LimitSet<u32>>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Runs the command.
///
/// # Errors
/// If the agent can not be asked, refuses, or standard output not written.
pub fn run(command: &AccessCommand, output: &mut Output) -> anyhow::Result<Outcome> {
    let (agent, view): (&AgentArgs, AccessView) = match command {
        AccessCommand::List(agent) => {
            (agent, ask(&agent.socket, async |client| client.get("/v1/access").await)?)
        }
        AccessCommand::Allow(args) => say(args, Says::Allow)?,
        AccessCommand::Deny(args) => say(args, Says::Deny)?,
        AccessCommand::Unlist(args) => say(args, Says::Unlisted)?,
        AccessCommand::Reset(args) => say(args, Says::Configured)?,
        AccessCommand::Limit(args) => limit(args)?,
    };
    output.print(agent.json, &view, render)?;
    Ok(Outcome::Good)
}

fn say(args: &EntryArgs, says: Says) -> anyhow::Result<(&AgentArgs, AccessView)> {
    let set = AccessSet {
        source: args.source.to_string(),
        frontend: args.frontend.as_ref().map(ToString::to_string),
        says,
        force: args.force,
    };
    let view = ask(&args.agent.socket, async |client| client.post("/v1/access", &set).await)?;
    Ok((&args.agent, view))
}

fn limit(args: &LimitArgs) -> anyhow::Result<(&AgentArgs, AccessView)> {
    let set = LimitsSet {
        new_flows: args.new_flows,
        packets: args.packets,
        connections_per_source: args.connections_per_source,
        ..LimitsSet::of(&args.frontend)
    };
    let view = ask(&args.agent.socket, async |client| client.post("/v1/limits", &set).await)?;
    Ok((&args.agent, view))
}

fn render(view: &AccessView) -> String {
    if view.entries.is_empty() && view.limits.is_empty() {
        return "lists and limits are as configured\n".into();
    }
    let mut text = String::new();
    if !view.entries.is_empty() {
        let columns = [("SOURCE", Lean::Left), ("LIST OF", Lean::Left), ("SAYS", Lean::Left)];
        text += &table(
            columns,
            view.entries.iter().map(|entry| {
                let says = match entry.says {
                    Says::Allow => "allow",
                    Says::Deny => "deny",
                    Says::Unlisted => "unlisted",
                    Says::Configured => "configured",
                };
                let list = entry.frontend.clone().unwrap_or_else(|| "the node".into());
                [entry.source.clone(), list, says.into()]
            }),
        );
    }
    if !view.limits.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let columns = [
            ("FRONTEND", Lean::Left),
            ("NEW FLOWS", Lean::Right),
            ("PACKETS", Lean::Right),
            ("CONNECTIONS", Lean::Right),
        ];
        let rate = |set: RateSet| format!("{}/{}", set.rate, set.burst.unwrap_or(set.rate));
        text += &table(
            columns,
            view.limits.iter().map(|set| {
                [
                    set.frontend.clone(),
                    shown(set.new_flows, rate),
                    shown(set.packets, rate),
                    shown(set.connections_per_source, |count| count.to_string()),
                ]
            }),
        );
    }
    text
}

fn shown<T>(limit: Option<LimitSet<T>>, show: impl FnOnce(T) -> String) -> String {
    match limit {
        Some(LimitSet::Value(value)) => show(value),
        Some(LimitSet::Word(LimitWord::None)) => "none".into(),
        Some(LimitSet::Word(LimitWord::Configured)) | None => "configured".into(),
    }
}

fn parse_word(text: &str) -> Option<LimitWord> {
    match text {
        "none" => Some(LimitWord::None),
        "configured" => Some(LimitWord::Configured),
        _ => None,
    }
}

fn parse_rate(text: &str) -> anyhow::Result<LimitSet<RateSet>> {
    if let Some(word) = parse_word(text) {
        return Ok(LimitSet::Word(word));
    }
    let (rate, burst) = match text.split_once('/') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let number = |text: &str| text.parse().context("write 50, 50/200, none or configured");
    let (rate, burst) = (number(rate)?, burst.map(number).transpose()?);
    if rate == 0 || burst == Some(0) {
        bail!(
            "a rate is at least 1; none means no limit; to let nobody in, deny 0.0.0.0/0 and ::/0"
        );
    }
    Ok(LimitSet::Value(RateSet { rate, burst }))
}

fn parse_count(text: &str) -> anyhow::Result<LimitSet<u32>> {
    match parse_word(text) {
        Some(word) => Ok(LimitSet::Word(word)),
        None => Ok(LimitSet::Value(text.parse().context("write 200, none or configured")?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::access::AccessEntry;

    #[test]
    fn limits_are_read_or_refused_with_a_hint() {
        let rate = |text: &str| parse_rate(text).unwrap();
        assert_eq!(rate("50"), LimitSet::Value(RateSet { rate: 50, burst: None }));
        assert_eq!(rate("50/200"), LimitSet::Value(RateSet { rate: 50, burst: Some(200) }));
        assert_eq!(rate("none"), LimitSet::Word(LimitWord::None));
        for bad in ["", "0", "5/0", "5/", "/5", "-1", "many", "1/2/3"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_count("configured").unwrap(), LimitSet::Word(LimitWord::Configured));
        assert!(parse_count("x").is_err());
    }

    #[test]
    fn what_was_changed_is_shown_and_nothing_else() {
        assert_eq!(render(&AccessView::default()), "lists and limits are as configured\n");
        let entry = AccessEntry { source: "192.0.2.0/24".into(), frontend: None, says: Says::Deny };
        let set = LimitsSet {
            new_flows: Some(LimitSet::Value(RateSet { rate: 50, burst: None })),
            packets: Some(LimitSet::Word(LimitWord::None)),
            ..LimitsSet::of(&Name::new("web").unwrap())
        };
        let text = render(&AccessView { entries: vec![entry], limits: vec![set] });
        assert!(text.contains("192.0.2.0/24  the node  deny\n"), "{text}");
        assert!(text.contains("web           50/50     none   configured\n"), "{text}");
    }
}
