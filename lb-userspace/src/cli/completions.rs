//! `pointsman completions`.

use clap::CommandFactory;

use super::{Cli, Outcome, output::Output};

/// Options of `pointsman completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Prints a completion script.
///
/// # Errors
/// If standard output can not be written.
pub fn run(args: &CompletionsArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pointsman", &mut script);
    output.print_text(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Good)
}
