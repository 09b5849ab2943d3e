//! The `pointsman` binary: parse, run, say what went wrong, exit.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use pointsman::{
    admin::client::ClientError,
    cli::{COULD_NOT, Cli, Outcome, output::Output},
};

/// A request is many small pieces that live for microseconds on one thread
/// (docs/decisions/0016-proxy-speed.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
