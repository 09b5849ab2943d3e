//! The command line. One file a command; each prints a table for people or, with `--json`,
//! the same as JSON, and says by its exit code how it went.

pub mod access;
pub mod block;
pub mod check;
pub mod completions;
pub mod doctor;
pub mod drops;
pub mod flows;
pub mod output;
pub mod reload;
pub mod run;
pub mod server;
pub mod status;
pub mod trace;
pub mod units;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::admin::{
    DEFAULT_SOCKET,
    client::{Client, ClientError},
};
use output::Output;

/// A load balancer with two speeds: layer 4 in the kernel, layer 7 in user space.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 good, 1 the answer is no (invalid configuration, refused \
                        reload, a problem that doctor found), 2 usage, 3 could not (no agent, no permission).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    Run(run::RunArgs),
    /// Validate a configuration file
    Check(check::CheckArgs),
    /// Show the agent, its VIPs, backends and servers
    Status(status::StatusArgs),
    /// Drain a server, take it out, bring it back, change its weight
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// List tracked connections
    Flows(flows::FlowsArgs),
    /// Show how many packets were dropped and why
    Drops(drops::DropsArgs),
    /// Keep a source of packets away from layer-4 frontends
    Block(block::BlockArgs),
    /// Let a blocked source in again
    Unblock(block::UnblockArgs),
    /// List what is blocked, why, and for how long
    Blocks(block::BlocksArgs),
    /// Change lists of sources and limits of layer 4, until that is taken back
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// Show packets, what became of them and why
    Trace(trace::TraceArgs),
    /// Make the agent load its configuration again
    Reload(reload::ReloadArgs),
    /// Look for what keeps packets from being forwarded, and say what mends it
    Doctor(doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// How a command went, short of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went well.
    Good,
    /// It went well and the answer is no.
    No,
}

/// Exit code of errors: the command could not do its work.
pub const COULD_NOT: u8 = 3;

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Good => Self::SUCCESS,
            Outcome::No => Self::from(1),
        }
    }
}

/// Options of every command that asks a running agent.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Admin socket of the agent
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

impl Cli {
    /// Carries out the command.
    ///
    /// # Errors
    /// Whatever kept the command from doing its work: exit code [`COULD_NOT`].
    pub fn run(self, output: &mut Output) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Run(args) => run::run(args, output),
            Command::Check(args) => check::run(&args, output),
            Command::Status(args) => status::run(&args, output),
            Command::Server(command) => server::run(&command, output),
            Command::Flows(args) => flows::run(&args, output),
            Command::Drops(args) => drops::run(&args, output),
            Command::Block(args) => block::block(&args, output),
            Command::Unblock(args) => block::unblock(&args, output),
            Command::Blocks(args) => block::blocks(&args, output),
            Command::Access(command) => access::run(&command, output),
            Command::Trace(args) => trace::run(&args, output),
            Command::Reload(args) => reload::run(&args, output),
            Command::Doctor(args) => doctor::run(&args, output),
            Command::Completions(args) => completions::run(&args, output),
        }
    }
}

/// Runs one request to the agent to its end.
fn ask<T>(
    socket: &Path,
    request: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(request(Client::new(socket)))?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_change_without_content_is_a_usage_fault() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("pointsman server set pg/pg1").is_err());
        assert!(parse("pointsman server set pg --state drain").is_err());
        assert!(parse("pointsman server set pg/pg1 --state up").is_err());
        assert!(parse("pointsman server set pg/pg1 --weight 257").is_err());
        assert!(parse("pointsman server set pg/pg1 --weight 0 --state ready --json").is_ok());
        assert!(parse("pointsman flows --limit 0").is_err());
        assert!(parse("pointsman block 10.0.0.0/8 --for 10m --frontend web").is_ok());
        assert!(parse("pointsman block").is_err());
        assert!(parse("pointsman block 10.0.0.1/8").is_err());
        assert!(parse("pointsman unblock 192.0.2.7 --json").is_ok());
        assert!(parse("pointsman access deny 192.0.2.0/24 --frontend web --json").is_ok());
        assert!(parse("pointsman access deny").is_err());
        assert!(parse("pointsman access limit web").is_err());
        assert!(parse("pointsman trace --vip 10.0.0.100:80 --proto tcp -w -").is_ok());
        assert!(parse("pointsman trace --flow 10.0.0.1:80 --host 10.0.0.1").is_err());
        assert!(parse("pointsman trace --snaplen 2048").is_err());
        assert!(parse("pointsman access limit web --new-flows 50/200 --packets none").is_ok());
    }
}
