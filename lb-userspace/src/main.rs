//! The `pointsman` binary: parse, run, say what went wrong, exit.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use pointsman::{
    admin::client::ClientError,
    allocator::Allocator,
    cli::{COULD_NOT, Cli, Outcome, output::Output},
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    // Prints usage faults itself and leaves with 2.
    let cli = Cli::parse();
    match cli.run(&mut Output::stdout()) {
        Ok(outcome) => outcome.into(),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error fails too.
            let _ = writeln!(io::stderr(), "pointsman: {error:#}");
            exit_code(&error)
        }
    }
}

/// The reader of our output left, as in `pointsman flows | head -1`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(_)) => Outcome::No.into(),
        _ => ExitCode::from(COULD_NOT),
    }
}
