//! `pointsman flows`.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
    status::protocol_name,
    units,
};
use crate::{
    admin::{
        api::{FlowQuery, FlowsView},
        flow_query::{ClientFilter, FlowSort, StateFilter, VipFilter},
    },
    model::snapshot::Protocol,
};

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
    /// Only flows of this client, or of clients in this network
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub client: Option<ClientFilter>,
    /// Only flows through this VIP
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub vip: Option<VipFilter>,
    /// Only flows in this state, as the list shows it
    #[arg(long, value_parser = state_parser())]
    pub state: Option<StateFilter>,
    /// Only flows of this protocol
    #[arg(long, value_parser = protocol_parser())]
    pub protocol: Option<Protocol>,
    /// Only flows with this port at any of their ends
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Sort, the greatest first; without it, flows come in no order
    #[arg(long, value_name = "BY")]
    pub sort: Option<FlowSort>,
    /// The least first
    #[arg(long, requires = "sort")]
    pub reverse: bool,
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
        client: args.client,
        vip: args.vip,
        state: args.state.clone(),
        protocol: args.protocol,
        port: args.port,
        sort: args.sort,
        reverse: args.reverse,
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

fn state_parser() -> impl TypedValueParser<Value = StateFilter> {
    PossibleValuesParser::new(StateFilter::NAMES).try_map(|name| name.parse::<StateFilter>())
}

fn protocol_parser() -> impl TypedValueParser<Value = Protocol> {
    let names = [Protocol::Tcp, Protocol::Udp].map(protocol_name);
    PossibleValuesParser::new(names).map(|name| match name == protocol_name(Protocol::Udp) {
        true => Protocol::Udp,
        false => Protocol::Tcp,
    })
}

fn render(view: &FlowsView) -> String {
    let columns = [
        ("PROTOCOL", Lean::Left),
        ("CLIENT", Lean::Left),
        ("VIP", Lean::Left),
        ("FRONTEND", Lean::Left),
        ("SERVER", Lean::Left),
        ("ADDRESS", Lean::Left),
        ("FORWARD", Lean::Left),
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
            flow.forward.clone(),
            flow.state.clone(),
            units::duration(flow.age_s),
            units::duration(flow.idle_s),
            units::bytes(flow.forward_bytes),
            units::bytes(flow.reply_bytes),
        ]
    });
    let mut text = table(columns, rows);
    if view.truncated {
        text += &format!("(these {} and more; raise --limit to see them)\n", view.flows.len());
    }
    text
}
