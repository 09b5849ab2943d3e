//! Running other programs: to their end, with an error that names the command.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Cargo of the pinned toolchain, in the root of the repository.
pub(crate) fn cargo<I, S>(arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    // Cargo sets CARGO for what it runs; without it, rustup's proxy reads
    // rust-toolchain.toml in the working directory.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    command
}

/// Runs a command with our input and output.
///
/// # Errors
/// The command could not start or did not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("could not start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Becomes a command: the same process, so that what is sent to us reaches it.
///
/// # Errors
/// The command could not start; otherwise this does not return.
pub(crate) fn replace(command: &mut Command) -> Result<()> {
    let shown = show(command);
    Err(command.exec()).with_context(|| format!("could not start `{shown}`"))
}

/// Runs a command and returns what it wrote to standard output.
///
/// # Errors
/// The command could not start, did not succeed, or wrote something that is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("could not start `{shown}`"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}: {}", output.status, message.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not write UTF-8"))
}

/// Runs a command, passes on each line it writes to standard output, and shows the line
/// to `watch`. Returns whether the command succeeded.
///
/// # Errors
/// The command could not start, or its output could not be read.
pub(crate) fn watch(command: &mut Command, mut watch: impl FnMut(&str)) -> Result<bool> {
    let shown = show(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("could not read from `{shown}`"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            watch(&line);
        }
    }
    Ok(child.wait().with_context(|| format!("could not wait for `{shown}`"))?.success())
}

/// Where a program is; looks beyond PATH in the directories of system programs, which are
/// not on every user's PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| is_file(file))
}

/// Whether we may do what needs root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // A process's directory belongs to its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let error = run(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().starts_with("`false` failed"), "{error}");
    }

    #[test]
    fn watched_lines_arrive_one_by_one() {
        let mut lines = Vec::new();
        let mut command = Command::new("printf");
        let good = watch(command.arg("a\nb\n"), |line| lines.push(line.to_owned())).unwrap();
        assert!(good);
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
