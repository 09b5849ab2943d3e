//! Code of this workspace compiled so that libFuzzer sees what it does.
//!
//! Cargo runs a "workspace wrapper" in the compiler's place for the members of the workspace
//! and for nothing else, and keeps what comes of it apart. Dependencies are those of any other
//! build: they need not be compiled again. The wrapper is this program.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

/// Set for the wrapper.
const VARIABLE: &str = "POINTSMAN_INSTRUMENT";

/// What libFuzzer wants (LLVM's SanitizerCoverage): a counter for each edge, and a call
/// before each comparison, which tells it what values are asked for.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Makes a build with Cargo one with instrumentation.
///
/// # Errors
/// This program can not be found.
pub(crate) fn prepare(command: &mut Command) -> Result<()> {
    let this = env::current_exe().context("find this program")?;
    command.env("RUSTC_WORKSPACE_WRAPPER", this).env(VARIABLE, "1");
    Ok(())
}

/// Becomes the compiler, if this runs in its place: `xtask RUSTC ARGUMENTS...`.
pub(crate) fn compile() -> Option<ExitCode> {
    env::var_os(VARIABLE)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(&rustc);
    command.args(&arguments);
    if is_instrumented(&arguments) {
        command.args(FLAGS);
    }
    let error = command.exec();
    eprintln!("error: could not start {}: {error}", rustc.display());
    Some(ExitCode::FAILURE)
}

/// Build scripts run by themselves: nothing there takes what the instrumentation calls. And
/// what Cargo asks the compiler about itself has no name.
fn is_instrumented(arguments: &[OsString]) -> bool {
    let mut names = arguments.windows(2).filter(|pair| pair[0] == OsStr::new("--crate-name"));
    let name = names.next().map(|pair| pair[1].to_string_lossy().into_owned());
    name.is_some_and(|name| name != "___" && !name.starts_with("build_script_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_scripts_are_left_as_they_are() {
        let ask = |arguments: &[&str]| {
            is_instrumented(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
        };
        assert!(ask(&["--crate-name", "pointsman", "src/lib.rs"]));
        assert!(!ask(&["--crate-name", "build_script_build", "build.rs"]));
        assert!(!ask(&["-", "--crate-name", "___", "--print=file-names"]));
        assert!(!ask(&["-vV"]));
    }
}
