//! Redis without persistence. A key holds the instance's name.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{Load, at, bounded, first_line};
use crate::namespace::{Namespace, output};

const NAME_KEY: &str = "server-name";

pub(super) fn command(namespace: &Namespace, directory: &Path) -> Result<Command> {
    fs::create_dir_all(directory)?;
    let mut command = namespace.command("redis-server");
    command.args(["--bind", "0.0.0.0 ::", "--protected-mode", "no", "--save", "", "--dir"]);
    command.arg(directory);
    Ok(command)
}

pub(super) fn set_name(namespace: &Namespace, target: SocketAddr, name: &str) -> Result<()> {
    let mut command = bounded(namespace, 5, "redis-cli", &["-e"]);
    output(at(&mut command, target).args(["set", NAME_KEY, name])).map(drop)
}

pub(super) fn identify(namespace: &Namespace, target: SocketAddr) -> Result<String> {
    let mut command = bounded(namespace, 5, "redis-cli", &["-e"]);
    first_line(at(&mut command, target).args(["get", NAME_KEY]))
}

/// How long a run may take, in seconds. It takes less than one; but a connection refused
/// in the middle makes `redis-benchmark` wait for ever for the request it had issued.
const LIMIT: u32 = 10;

/// `redis-benchmark` gives up at the first lost connection.
pub(super) fn load(namespace: &Namespace, target: SocketAddr, load: Load) -> Result<String> {
    let requests = u64::from(load.connections) * u64::from(load.operations);
    let (clients, wanted) = (load.connections.to_string(), requests.to_string());
    let arguments = ["--csv", "-t", "set,get", "-c", &clients, "-n", &wanted];
    let mut command = bounded(namespace, LIMIT, "redis-benchmark", &arguments);
    let printed = output(at(&mut command, target))?;
    let rate = |test: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(&format!("\"{test}\",\"")));
        line.and_then(|rest| rest.split(['.', '"']).next()).map(str::to_owned)
    };
    let (set, get) = (rate("SET"), rate("GET"));
    ensure!(set.is_some() && get.is_some(), "redis-benchmark printed no rates: {printed}");
    let (set, get) = (set.unwrap_or_default(), get.unwrap_or_default());
    Ok(format!("{requests} SET at {set} a second, {requests} GET at {get} a second"))
}
