//! PostgreSQL 15 or whatever Debian has: one cluster made with `initdb` and filled with
//! `pgbench -i`, copied for each instance.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::User;

use super::{Load, at, bounded, first_line};
use crate::namespace::{Namespace, output};

/// The user that the Debian package made; the server refuses to run as root.
const USER: &str = "postgres";
/// The database of `pgbench`.
const DATABASE: &str = "bench";
const TEMPLATE: &str = "template";

/// Makes the cluster that instances are copied from, in `directory/template`.
pub(super) fn prepare(directory: &Path) -> Result<()> {
    let user = User::from_name(USER)?
        .context("no user postgres: run cargo xtask setup servers, which installs PostgreSQL")?;
    // Its server has to pass through the directories above, too.
    for above in directory.ancestors().take(2) {
        fs::set_permissions(above, fs::Permissions::from_mode(0o755))?;
    }
    chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let template = directory.join(TEMPLATE);
    let mut initdb = as_user(&program("initdb")?);
    initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata"]);
    output(initdb.arg(&template))?;
    let access = "local all all trust\nhost all all all trust\n";
    fs::write(template.join("pg_hba.conf"), access)?;
    // Filled without any network: over the socket in the directory.
    let mut start = as_user(&program("pg_ctl")?);
    let options = format!("-h '' -k {} -c fsync=off", directory.display());
    start.args(["start", "--wait", "--silent", "--options", &options, "--log"]);
    output(start.arg(directory.join("template.log")).arg("--pgdata").arg(&template))?;
    let filled = fill(directory);
    let mut stop = as_user(&program("pg_ctl")?);
    output(stop.args(["stop", "--wait", "--silent", "--pgdata"]).arg(&template))?;
    filled
}

fn fill(directory: &Path) -> Result<()> {
    let socket = directory.to_str().context("the directory is not UTF-8")?;
    output(Command::new("createdb").args(["-h", socket, "-U", USER, DATABASE]))?;
    output(Command::new("pgbench").args(["-i", "-q", "-h", socket, "-U", USER, DATABASE]))?;
    Ok(())
}

/// The server in the foreground; its data are copied from the template the first time.
pub(super) fn command(namespace: &Namespace, name: &str, directory: &Path) -> Result<Command> {
    let data = copy(directory, name)?;
    let mut command = namespace.command("setpriv");
    command.args(PRIVILEGES).arg(program("postgres")?);
    set(&mut command, &data, name, "*");
    Ok(command)
}

/// A server of its own in an empty directory, to be started on an address of this host.
///
/// # Errors
/// When PostgreSQL is not installed, or does not make a cluster.
pub fn cluster(directory: &Path, address: SocketAddr) -> Result<Command> {
    prepare(directory)?;
    let data = copy(directory, "one")?;
    let mut command = as_user(&program("postgres")?);
    set(&mut command, &data, "one", &address.ip().to_string());
    command.args(["-p", &address.port().to_string()]);
    Ok(command)
}

fn copy(directory: &Path, name: &str) -> Result<PathBuf> {
    let data = directory.join(name);
    if !data.exists() {
        output(Command::new("cp").arg("-a").arg(directory.join(TEMPLATE)).arg(&data))?;
    }
    Ok(data)
}

fn set(command: &mut Command, data: &Path, name: &str, addresses: &str) {
    command.arg("-D").arg(data);
    // Next to its data: two servers can not share a directory for sockets.
    command.arg("-k").arg(data);
    command.args(["-c", &format!("listen_addresses={addresses}")]);
    for setting in ["fsync=off", "log_connections=on"] {
        command.args(["-c", setting]);
    }
    command.args(["-c", &format!("cluster_name={name}")]);
}

pub(super) fn identify(namespace: &Namespace, target: SocketAddr) -> Result<String> {
    let arguments = ["-X", "-At", "-U", USER, "-d", DATABASE, "-c", "show cluster_name"];
    let mut command = bounded(namespace, 5, "psql", &arguments);
    first_line(at(&mut command, target).env("PGCONNECT_TIMEOUT", "3"))
}

/// Select-only, because the instances hold the same data. `pgbench` counts failed
/// transactions and aborted clients in its exit code and its report.
pub(super) fn load(namespace: &Namespace, target: SocketAddr, load: Load) -> Result<String> {
    let (clients, transactions) = (load.connections.to_string(), load.operations.to_string());
    let arguments = ["-n", "-S", "-U", USER, "-c", &clients, "-t", &transactions];
    let mut command = bounded(namespace, 60, "pgbench", &arguments);
    let printed = output(at(&mut command, target).env("PGCONNECT_TIMEOUT", "3").arg(DATABASE))?;
    let wanted = u64::from(load.connections) * u64::from(load.operations);
    let processed = format!("number of transactions actually processed: {wanted}/{wanted}");
    ensure!(printed.contains(&processed), "pgbench did not say {processed:?}: {printed}");
    let rate = printed.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap_or_default();
    let rate = rate.split(['.', ' ']).next().unwrap_or_default();
    Ok(format!("{wanted} transactions, {rate} a second"))
}

const PRIVILEGES: [&str; 4] =
    ["--reuid=postgres", "--regid=postgres", "--init-groups", "--inh-caps=-all"];

fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(PRIVILEGES).arg(program).current_dir("/");
    command
}

/// Debian keeps the server's programs out of the search path, by version.
fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").map(|entries| {
        entries.flatten().map(|entry| entry.path().join("bin").join(name)).collect::<Vec<_>>()
    });
    let found = versions.unwrap_or_default().into_iter().filter(|path| path.exists()).max();
    found.with_context(|| format!("no PostgreSQL {name}: run cargo xtask setup servers"))
}
