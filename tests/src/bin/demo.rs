//! `cargo xtask demo`: see [`testbed::demo`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use testbed::{
    demo::{self, Interruption, Options},
    real::Kind,
    report::note,
};

/// Shows pointsman at work between network namespaces of this machine
#[derive(Parser)]
struct Arguments {
    /// Leave everything running, and say how to look inside
    #[arg(long, conflicts_with = "stop")]
    keep: bool,
    /// End the demo that was left running
    #[arg(long)]
    stop: bool,
    /// Real servers in place of the embedded ones
    #[arg(long, value_delimiter = ',', value_name = "postgres,redis,rabbitmq")]
    servers: Vec<Kind>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("\nFAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.stop {
        return demo::stop();
    }
    let interruption = Interruption::watch()?;
    let options = Options { keep: arguments.keep, servers: arguments.servers };
    demo::run(&options, &interruption)
}
