//! `cargo xtask`: the chores of this repository, one file per command in `commands`.
//!
//! Nothing here is part of the product. Commands call `setup` as far as they need it, so
//! that each works on a fresh machine. This crate depends on no other crate of the
//! workspace: it must start where the data plane can not be built yet.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks")]

mod commands;
mod install;
mod instrument;
mod process;
mod rules;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{bench, build, demo, dist, docs, fuzz, run, setup, soak, test, tidy};

/// Chores of the pointsman repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Options),
    Build(build::Options),
    Demo(demo::Options),
    Run(run::Options),
    Test(test::Options),
    Fuzz(fuzz::Options),
    Soak(soak::Options),
    Bench(bench::Options),
    Docs(docs::Options),
    Tidy(tidy::Options),
    Dist(dist::Options),
    Packets(commands::packets::Options),
    Races(commands::races::Options),
}

fn main() -> ExitCode {
    if let Some(code) = instrument::compile() {
        return code;
    }
    let result = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Docs(options) => docs::run(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Packets(options) => commands::packets::run(&options),
        Command::Races(options) => commands::races::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
