//! `pointsman drops`: once, or again and again.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
};
use crate::{
    admin::api::{DropView, DropsView},
    clock::rfc3339,
};

/// Options of `pointsman drops`.
#[derive(Debug, clap::Args)]
pub struct DropsArgs {
    /// Print what was dropped since the last look, again and again, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// With --watch: seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval: u64,
    /// With --watch: end after this many looks
    #[arg(long, value_name = "N", requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// What was dropped between two looks: a line of `pointsman drops --watch --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Look {
    /// When, RFC 3339, UTC.
    at: String,
    /// Reasons that occurred since the look before.
    drops: Vec<Change>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change {
    /// Its stable name.
    reason: String,
    /// Packets since the look before.
    packets: u64,
    /// Packets since the data plane was loaded.
    total: u64,
}

/// Shows how many packets were dropped and why.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(args: &DropsArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let mut view = drops(args)?;
    if !args.watch {
        output.print(args.agent.json, &view, render)?;
        return Ok(Outcome::Good);
    }
    if !args.agent.json {
        output.print_text(&render(&view))?;
    }
    let mut looks = args.count;
    while looks != Some(0) {
        thread::sleep(Duration::from_secs(args.interval));
        let before = std::mem::replace(&mut view, drops(args)?);
        let at = rfc3339(SystemTime::now());
        let look = Look { at, drops: changes(&before.drops, &view.drops) };
        if args.agent.json {
            output.print_text(&(serde_json::to_string(&look)? + "\n"))?;
        } else {
            output.print_text(&lines(&look))?;
        }
        looks = looks.map(|looks| looks - 1);
    }
    Ok(Outcome::Good)
}

fn drops(args: &DropsArgs) -> anyhow::Result<DropsView> {
    ask(&args.agent.socket, async |client| client.get("/v1/drops").await)
}

/// The reasons that counted up. A counter that went down belongs to a data plane that was
/// loaded anew, so all of it is new.
fn changes(before: &[DropView], after: &[DropView]) -> Vec<Change> {
    let change = |now: &DropView| {
        let old = before.iter().find(|old| old.reason == now.reason);
        let old = old.map_or(0, |old| old.packets);
        let packets = now.packets.checked_sub(old).unwrap_or(now.packets);
        let reason = now.reason.clone();
        (packets > 0).then_some(Change { reason, packets, total: now.packets })
    };
    after.iter().filter_map(change).collect()
}

/// One line for each reason; nothing in quiet times.
fn lines(look: &Look) -> String {
    let line = |change: &Change| {
        let Change { reason, packets, total } = change;
        format!("{}  {reason:<20} {packets:>10} more, {total} in all\n", look.at)
    };
    look.drops.iter().map(line).collect()
}

fn render(view: &DropsView) -> String {
    let columns = [("REASON", Lean::Left), ("PACKETS", Lean::Right), ("DESCRIPTION", Lean::Left)];
    table(
        columns,
        view.drops
            .iter()
            .map(|drop| [drop.reason.clone(), drop.packets.to_string(), drop.description.clone()]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(counts: &[(&str, u64)]) -> Vec<DropView> {
        let view = |(reason, packets): &(&str, u64)| DropView {
            reason: (*reason).to_owned(),
            packets: *packets,
            description: String::new(),
        };
        counts.iter().map(view).collect()
    }

    #[test]
    fn only_what_was_dropped_since_the_last_look_is_shown() {
        let before = view(&[("no_server", 5), ("malformed", 7), ("fragment", 9)]);
        let after = view(&[("no_server", 5), ("malformed", 10), ("fragment", 2), ("new", 1)]);
        let found: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| (change.reason, change.packets, change.total))
            .collect();
        let expected = [("malformed", 3, 10), ("fragment", 2, 2), ("new", 1, 1)];
        assert_eq!(found, expected.map(|(reason, more, total)| (reason.to_owned(), more, total)));
        assert_eq!(lines(&Look { at: String::new(), drops: changes(&after, &after) }), "");
    }
}
