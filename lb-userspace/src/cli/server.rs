//! `pointsman server set`.

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};

use super::{AgentArgs, Outcome, ask, output::Output};
use crate::{
    admin::{
        api::{ServerSet, ServerView},
        routes::server_path,
    },
    model::{name::Name, state::AdminState},
};

/// What to do with a server.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Drain a server, take it out, bring it back, change its weight; forgotten when the
    /// server leaves the configuration
    Set(SetArgs),
}

/// Options of `pointsman server set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Which server
    #[arg(value_name = "BACKEND/SERVER", value_parser = parse_id)]
    pub server: (Name, Name),
    /// What to change.
    #[command(flatten)]
    pub change: Change,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// What to change; at least one.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// What is wanted of the server
    #[arg(long)]
    pub state: Option<WantedState>,
    /// Weight in place of the configured one, 0 to 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(ServerSet::MAX_WEIGHT)))]
    pub weight: Option<u16>,
}

/// What is wanted of a server.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WantedState {
    /// The checks decide
    Ready,
    /// No new flows, existing ones finish
    Drain,
    /// Out, and not checked; its flows are settled
    Maint,
}

impl From<WantedState> for AdminState {
    fn from(state: WantedState) -> Self {
        match state {
            WantedState::Ready => Self::Ready,
            WantedState::Drain => Self::Drain,
            WantedState::Maint => Self::Maint,
        }
    }
}

/// Changes one server.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(command: &ServerCommand, output: &mut Output) -> anyhow::Result<Outcome> {
    let ServerCommand::Set(args) = command;
    let (backend, server) = &args.server;
    let path = server_path(backend.as_str(), server.as_str());
    let set = ServerSet { state: args.change.state.map(Into::into), weight: args.change.weight };
    let view: ServerView = ask(&args.agent.socket, async |client| client.post(&path, &set).await)?;
    output.print(args.agent.json, &view, |view| {
        format!("{backend}/{server} is {}, weight {}, {}\n", view.state, view.weight, view.reason)
    })?;
    Ok(Outcome::Good)
}

fn parse_id(text: &str) -> anyhow::Result<(Name, Name)> {
    let Some((backend, server)) = text.split_once('/') else {
        bail!("write BACKEND/SERVER, such as pg/pg1");
    };
    Ok((Name::new(backend)?, Name::new(server)?))
}
