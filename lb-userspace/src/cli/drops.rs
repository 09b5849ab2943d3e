//! `pointsman drops`.

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
};
use crate::admin::api::DropsView;

/// Options of `pointsman drops`.
#[derive(Debug, clap::Args)]
pub struct DropsArgs {
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Shows how many packets were dropped and why.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(args: &DropsArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let view: DropsView = ask(&args.agent.socket, async |client| client.get("/v1/drops").await)?;
    output.print(args.agent.json, &view, render)?;
    Ok(Outcome::Good)
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
