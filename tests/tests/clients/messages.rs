//! gRPC and WebSockets, with the libraries that people use. The clients list what they check.

use std::{net::SocketAddr, process::Command};

use anyhow::{Result, ensure};
use testbed::{
    loopback::{Loopback, free, succeed},
    python::interpreter,
};

/// Where the programs are.
pub(crate) const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/peers");

/// A server in Python.
pub(crate) fn python(program: &str, port: SocketAddr) -> Result<Command> {
    let mut command = Command::new(interpreter()?);
    command.arg(format!("{PEERS}/{program}")).arg(port.port().to_string());
    Ok(command)
}

/// Runs a client through the proxy to a server; every one of its checks has to be good.
fn check(server: &str, client: &str, backend: &str, checks: usize) -> Result<()> {
    let mut place = Loopback::new()?;
    let (program, server, front) = (server, free()?, free()?);
    place.beside(&mut python(program, server)?, server)?;
    place.start(&format!(
        "frontends: {{f: {{mode: http, bind: [\"{front}\"], backend: b}}}}\n\
         backends: {{b: {{{backend} servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    let mut command = Command::new("timeout");
    command.arg("120").arg(interpreter()?).arg(format!("{PEERS}/{client}"));
    let said = succeed(command.arg(front.port().to_string()))?;
    ensure!(said.lines().filter(|line| line.starts_with("good: ")).count() == checks, "{said}");
    // Calls are the clients', whatever becomes of them.
    let blamed: Vec<_> = place
        .log(1)?
        .into_iter()
        .filter(|line| line["cause"] == "proxy" || line["cause"] == "policy")
        .collect();
    ensure!(blamed.is_empty(), "{blamed:?}");
    Ok(())
}

#[test]
fn grpc_has_every_kind_of_call_deadlines_trailers_and_errors() -> Result<()> {
    check("grpc_server.py", "grpc_client.py", "protocol: http2,", 10)
}

#[test]
fn websockets_have_messages_both_ways_pings_and_close_codes() -> Result<()> {
    check("websocket_server.py", "websocket_client.py", "", 8)
}

#[test]
fn websockets_on_streams_of_http2_have_the_same() -> Result<()> {
    check("websocket_server.py", "websocket_http2_client.py", "", 6)
}
