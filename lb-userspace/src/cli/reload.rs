//! `pointsman reload`.

use serde_json::json;

use super::{AgentArgs, Outcome, ask, output::Output};
use crate::admin::api::{FaultView, ReloadResult};

/// Options of `pointsman reload`.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Makes the agent load its configuration again.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(args: &ReloadArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let result: ReloadResult =
        ask(&args.agent.socket, async |client| client.post("/v1/reload", &json!({})).await)?;
    output.print(args.agent.json, &result, render)?;
    Ok(if result.accepted { Outcome::Good } else { Outcome::No })
}

/// The faults of a configuration, one after the other, and their number.
#[must_use]
pub fn render_faults(faults: &[FaultView]) -> String {
    let mut text: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
    text += &match faults.len() {
        1 => "1 fault\n".to_owned(),
        number => format!("{number} faults\n"),
    };
    text
}

fn render(result: &ReloadResult) -> String {
    if !result.accepted {
        return render_faults(&result.faults)
            + "the new configuration was refused; the old one stays in force\n";
    }
    let mut text = String::new();
    for warning in &result.warnings {
        text += &format!("WARNING: {warning}\n");
    }
    text + "the new configuration is in force\n"
}
