//! RabbitMQ: nodes that know nothing of each other, each with its own name, data
//! directory, Erlang cookie and (because it is in its own namespace) port mapper.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{Load, bounded, first_line};
use crate::{
    namespace::{Namespace, output},
    python::interpreter,
};

/// The script behind Debian's wrapper, which would insist on `/var/lib/rabbitmq`.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Publishes with confirms and consumes, through `pika`.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/real/rabbitmq_client.py");

pub(super) fn command(namespace: &Namespace, name: &str, directory: &Path) -> Result<Command> {
    fs::create_dir_all(directory)?;
    // `guest` may log in from anywhere: the client is not on the broker's machine.
    let settings = "listeners.tcp.default = 5672\nloopback_users = none\n";
    fs::write(directory.join("rabbitmq.conf"), settings)?;
    fs::write(directory.join("enabled_plugins"), "[].\n")?;
    let mut command = namespace.command(SERVER);
    command
        .env("HOME", directory)
        .env("RABBITMQ_NODENAME", format!("{name}@localhost"))
        .env("RABBITMQ_MNESIA_BASE", directory.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", directory.join("log"))
        .env("RABBITMQ_PID_FILE", directory.join("pid"))
        .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("enabled_plugins"));
    Ok(command)
}

pub(super) fn identify(namespace: &Namespace, target: SocketAddr) -> Result<String> {
    first_line(&mut client(namespace, 10, target, Load { connections: 1, operations: 0 })?)
}

pub(super) fn load(namespace: &Namespace, target: SocketAddr, load: Load) -> Result<String> {
    let printed = output(&mut client(namespace, 60, target, load)?)?;
    Ok(printed.lines().nth(1).unwrap_or_default().to_owned())
}

/// One connection that publishes ten messages and consumes them.
pub(super) fn by_hand(target: SocketAddr) -> Result<String> {
    let (python, address, port) = (interpreter()?, target.ip(), target.port());
    Ok(format!("{} {CLIENT} {address} {port} 1 10", python.display()))
}

fn client(namespace: &Namespace, limit: u32, target: SocketAddr, load: Load) -> Result<Command> {
    let python = interpreter()?;
    let python = python.to_str().context("the path of python is not UTF-8")?;
    let mut command = bounded(namespace, limit, python, &[CLIENT]);
    command.args([target.ip().to_string(), target.port().to_string()]);
    command.args([load.connections.to_string(), load.operations.to_string()]);
    Ok(command)
}
