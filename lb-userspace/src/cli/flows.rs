//! `pointsman flows`.

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
    status::protocol_name,
    units,
};
use crate::admin::api::{FlowQuery, FlowsView};

/// Options of `pointsman flows`.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// Most flows to list
    #[arg(long, value_name = "N", default_value_t = FlowQuery::DEFAULT_LIMIT, value_parser = parse_limit)]
    pub limit: usize,
    /// Only flows through this frontend
    #[arg(long, value_name = "NAME")]
    pub frontend: Option<String>,
    /// Only flows to this server
    #[arg(long, value_name = "[BACKEND/]SERVER")]
    pub server: Option<String>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Lists tracked connections.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(args: &FlowsArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let query = FlowQuery {
        limit: Some(args.limit),
        frontend: args.frontend.clone(),
        server: args.server.clone(),
    };
    let target = format!("/v1/flows?{}", serde_urlencoded::to_string(&query)?);
    let view: FlowsView = ask(&args.agent.socket, async |client| client.get(&target).await)?;
    output.print(args.agent.json, &view, render)?;
    Ok(Outcome::Good)
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=FlowQuery::MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(format!("must be 1 to {}", FlowQuery::MAX_LIMIT)),
    }
}

fn render(view: &FlowsView) -> String {
    let columns = [
        ("PROTOCOL", Lean::Left),
        ("CLIENT", Lean::Left),
        ("VIP", Lean::Left),
        ("FRONTEND", Lean::Left),
        ("SERVER", Lean::Left),
        ("ADDRESS", Lean::Left),
        ("STATE", Lean::Left),
        ("AGE", Lean::Right),
        ("IDLE", Lean::Right),
        ("IN", Lean::Right),
        ("OUT", Lean::Right),
    ];
    let rows = view.flows.iter().map(|flow| {
        [
            protocol_name(flow.protocol).to_owned(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.frontend.clone().unwrap_or_else(|| "-".into()),
            flow.server_name.clone().unwrap_or_else(|| "-".into()),
            flow.server.to_string(),
            flow.state.clone(),
            units::duration(flow.age_s),
            units::duration(flow.idle_s),
            units::bytes(flow.forward_bytes),
            units::bytes(flow.reply_bytes),
        ]
    });
    let mut text = table(columns, rows);
    if view.truncated {
        text += &format!("(the first {}; more with --limit)\n", view.flows.len());
    }
    text
}
