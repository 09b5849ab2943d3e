//! `pointsman block`, `pointsman unblock`, `pointsman blocks`.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
    units,
};
use crate::{
    admin::api::{BlockSet, BlockView, BlocksView, UnblockSet},
    model::name::{Name, NameError},
};

/// Options of `pointsman block`.
#[derive(Debug, Args)]
pub struct BlockArgs {
    /// Whom: an address or a network
    #[arg(value_name = "ADDRESS/CIDR", value_parser = parse_network)]
    pub source: IpNet,
    /// For how long, such as 10m or 1h 30m; until `unblock` if not given
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_time)]
    pub time: Option<Duration>,
    /// For this frontend alone
    #[arg(long, value_name = "FRONTEND", value_parser = parse_name)]
    pub frontend: Option<Name>,
    /// Why, for those who look at `blocks` later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `pointsman unblock`.
#[derive(Debug, Args)]
pub struct UnblockArgs {
    /// Whom, as `blocks` shows it
    #[arg(value_name = "ADDRESS/CIDR", value_parser = parse_network)]
    pub source: IpNet,
    /// The frontend that it was blocked for, if it was one
    #[arg(long, value_name = "FRONTEND", value_parser = parse_name)]
    pub frontend: Option<Name>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `pointsman blocks`.
#[derive(Debug, Args)]
pub struct BlocksArgs {
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Blocks a source.
///
/// # Errors
/// If the agent can not be asked, refuses, or standard output not written.
pub fn block(args: &BlockArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let set = BlockSet {
        source: args.source.to_string(),
        for_s: args.time.map(|time| time.as_secs()),
        frontend: args.frontend.as_ref().map(ToString::to_string),
        reason: args.reason.clone(),
    };
    let view: BlockView =
        ask(&args.agent.socket, async |client| client.post("/v1/block", &set).await)?;
    output.print(args.agent.json, &view, |view| {
        format!("{} is blocked{}{}\n", view.source, place(view), left(view, " for "))
    })?;
    Ok(Outcome::Good)
}

/// Ends a block.
///
/// # Errors
/// If the agent can not be asked, refuses, or standard output not written.
pub fn unblock(args: &UnblockArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let set = UnblockSet {
        source: args.source.to_string(),
        frontend: args.frontend.as_ref().map(ToString::to_string),
    };
    let view: BlocksView =
        ask(&args.agent.socket, async |client| client.post("/v1/unblock", &set).await)?;
    output
        .print(args.agent.json, &view, |_| format!("{} is not blocked any more\n", args.source))?;
    Ok(Outcome::Good)
}

/// Lists what is blocked.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn blocks(args: &BlocksArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let view: BlocksView = ask(&args.agent.socket, async |client| client.get("/v1/blocks").await)?;
    output.print(args.agent.json, &view, render)?;
    Ok(Outcome::Good)
}

fn render(view: &BlocksView) -> String {
    let columns = [
        ("SOURCE", Lean::Left),
        ("FRONTEND", Lean::Left),
        ("LEFT", Lean::Right),
        ("SINCE", Lean::Left),
        ("REASON", Lean::Left),
    ];
    let row = |block: &BlockView| {
        [
            block.source.clone(),
            block.frontend.clone().unwrap_or_else(|| "all".into()),
            left(block, ""),
            block.since.clone(),
            block.reason.clone(),
        ]
    };
    table(columns, view.blocks.iter().map(row))
}

fn place(view: &BlockView) -> String {
    view.frontend.as_ref().map(|name| format!(" from {name}")).unwrap_or_default()
}

fn left(view: &BlockView, before: &str) -> String {
    match view.left_s {
        Some(left_s) => format!("{before}{}", units::duration(left_s)),
        None if before.is_empty() => "no end".into(),
        None => String::new(),
    }
}

pub(super) fn parse_name(text: &str) -> Result<Name, NameError> {
    Name::new(text)
}

pub(super) fn parse_network(text: &str) -> anyhow::Result<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet =
        text.parse().ok().context("write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")?;
    if network.trunc() != network {
        bail!("it has bits behind its prefix; is {} meant?", network.trunc());
    }
    Ok(network)
}

fn parse_time(text: &str) -> anyhow::Result<Duration> {
    let time = humantime::parse_duration(text).context("write 30s, 10m or 1h 30m")?;
    if time < Duration::from_secs(1) || time.as_secs() > BlockSet::MAX_SECONDS {
        bail!("it is from 1s to {} days", BlockSet::MAX_SECONDS / 86_400);
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_times_are_read_or_refused_with_a_hint() {
        assert_eq!(parse_network("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(parse_network("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "host", "10.0.0.0/8/9"] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_time("1h 30m").unwrap(), Duration::from_secs(5400));
        for bad in ["", "10", "0s", "500ms", "10y", "-1s"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blocks_are_shown_with_what_is_left_of_them() {
        let block = |source: &str, left_s| BlockView {
            source: source.into(),
            frontend: None,
            since: "2026-01-31T12:34:56.789Z".into(),
            expires: None,
            left_s,
            reason: "scans".into(),
        };
        let blocks = vec![block("192.0.2.7", Some(598)), block("2001:db8::/32", None)];
        let text = render(&BlocksView { blocks });
        assert!(text.contains("192.0.2.7      all       9m 58s  2026-"), "{text}");
        assert!(text.contains("2001:db8::/32  all       no end  2026-"), "{text}");
    }
}
