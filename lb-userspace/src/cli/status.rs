//! `pointsman status`.

use std::fmt::Write;

use super::{
    AgentArgs, Outcome, ask,
    output::{Lean, Output, table},
    units,
};
use crate::{
    admin::api::{
        AgentView, BackendView, DatapathView, FrontendView, ProxyLoad, ServerView, StatusView,
        VipView,
    },
    model::{
        frontend::Forward,
        snapshot::{AttachMode, Protocol},
    },
};

/// Options of `pointsman status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Shows the agent, its VIPs, backends and servers.
///
/// # Errors
/// If the agent can not be asked or standard output not written.
pub fn run(args: &StatusArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let view: StatusView = ask(&args.agent.socket, async |client| client.get("/v1/status").await)?;
    output.print(args.agent.json, &view, render)?;
    Ok(Outcome::Good)
}

/// The words of the configuration for how the program is attached.
#[must_use]
pub fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
        AttachMode::Off => "off",
    }
}

/// The words of the configuration for a protocol.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn render(view: &StatusView) -> String {
    let mut text = agent(&view.agent);
    text += &datapath(&view.datapath);
    for warning in &view.warnings {
        text += &format!("WARNING: {warning}\n");
    }
    if !view.vips.is_empty() {
        text += &format!("\n{}", vips(&view.vips));
    }
    if !view.frontends.is_empty() {
        text += &format!("\n{}", frontends(&view.frontends));
    }
    if !view.backends.is_empty() {
        text += &format!("\n{}", servers(&view.backends));
    }
    if view.backends.iter().any(|backend| backend.proxy.is_some()) {
        text += &format!("\n{}", loads(&view.backends));
    }
    text
}

fn agent(agent: &AgentView) -> String {
    let mut text = format!(
        "pointsman {}, pid {}, up {}\nconfiguration: {}, loaded {}\n",
        agent.version,
        agent.pid,
        units::duration(agent.uptime_s),
        agent.configuration,
        agent.configured_at
    );
    if let Some(reload) = agent.last_reload.as_ref().filter(|reload| !reload.accepted) {
        // Writing to a String can not fail.
        let plural = if reload.faults == 1 { "" } else { "s" };
        let _ = writeln!(
            text,
            "last reload: refused at {}, {} fault{plural}; see the agent's log, or \
             `pointsman check {}`",
            reload.at, reload.faults, agent.configuration
        );
    }
    if let Some(log) = agent.access_log {
        let _ = writeln!(text, "access log: {} lines, {} lost", log.written, log.lost);
    }
    text
}

fn datapath(datapath: &DatapathView) -> String {
    let interfaces: Vec<_> = datapath
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, mode_name(interface.mode)))
        .collect();
    let mut text = if datapath.mode == AttachMode::Off {
        "data plane: off; frontends of layer 4 are served in user space\n".to_owned()
    } else {
        format!("data plane: on {}; pins in {}\n", interfaces.join(", "), datapath.pin_directory)
    };
    let tables: Vec<_> = datapath
        .tables
        .iter()
        .map(|table| {
            let share = units::percent(table.entries, table.capacity);
            let (entries, capacity) = (units::count(table.entries), units::count(table.capacity));
            format!("{} {entries} of {capacity} ({share})", table.name)
        })
        .collect();
    if !tables.is_empty() {
        text += &format!("table entries, two a flow: {}\n", tables.join(", "));
    }
    let rules = datapath.rules;
    if rules.listed + rules.blocked > 0 {
        let (listed, blocked) = (units::count(rules.listed as u64), rules.blocked);
        text += &format!("sources: {listed} networks on lists, {blocked} blocked\n");
    }
    if let Some(error) = &datapath.apply_error {
        text += &format!("WARNING: the maps are not up to date: {error}\n");
    }
    text
}

/// The state in force, and the one on its way.
fn state_name(server: &ServerView) -> String {
    match server.applying {
        None => server.state.to_string(),
        Some(next) => format!("{} -> {next}", server.state),
    }
}

fn vips(vips: &[VipView]) -> String {
    let columns = [
        ("FRONTEND", Lean::Left),
        ("VIP", Lean::Left),
        ("PROTOCOL", Lean::Left),
        ("BACKEND", Lean::Left),
        ("FORWARD", Lean::Left),
        ("OPENED", Lean::Right),
        ("IN", Lean::Right),
        ("OUT", Lean::Right),
        ("RESETS", Lean::Right),
    ];
    table(
        columns,
        vips.iter().map(|vip| {
            [
                vip.frontend.clone(),
                vip.address.to_string(),
                protocol_name(vip.protocol).to_owned(),
                vip.backend.clone(),
                way(vip),
                units::count(vip.traffic.flows),
                units::bytes(vip.traffic.forward_bytes),
                units::bytes(vip.traffic.reply_bytes),
                units::count(vip.traffic.resets),
            ]
        }),
    )
}

/// How packets of a VIP reach its servers.
fn way(vip: &VipView) -> String {
    let is_half = vip.forward == Forward::Nat.name() && !vip.snat;
    if is_half { "half nat".to_owned() } else { vip.forward.clone() }
}

/// Frontends of the proxy.
fn frontends(frontends: &[FrontendView]) -> String {
    let columns = [
        ("FRONTEND", Lean::Left),
        ("MODE", Lean::Left),
        ("LISTENS ON", Lean::Left),
        ("BACKEND", Lean::Left),
        ("CONNECTIONS", Lean::Right),
        ("REQUESTS", Lean::Right),
        ("2XX", Lean::Right),
        ("3XX", Lean::Right),
        ("4XX", Lean::Right),
        ("5XX", Lean::Right),
        ("IN", Lean::Right),
        ("OUT", Lean::Right),
    ];
    table(
        columns,
        frontends.iter().map(|frontend| {
            let traffic = &frontend.traffic;
            [
                frontend.name.clone(),
                frontend.mode.clone(),
                frontend.listen.join(" "),
                frontend.backend.clone(),
                format!("{} of {}", frontend.connections, frontend.max_connections),
                units::count(traffic.requests),
                units::count(traffic.status_2xx),
                units::count(traffic.status_3xx),
                units::count(traffic.status_4xx),
                units::count(traffic.status_5xx),
                units::bytes(traffic.bytes_in),
                units::bytes(traffic.bytes_out),
            ]
        }),
    )
}

/// What the proxy does with backends, and below each with its servers.
fn loads(backends: &[BackendView]) -> String {
    let columns = [
        ("PROXIED", Lean::Left),
        ("ACTIVE", Lean::Right),
        ("QUEUED", Lean::Right),
        ("REQUESTS", Lean::Right),
        ("2XX", Lean::Right),
        ("3XX", Lean::Right),
        ("4XX", Lean::Right),
        ("5XX", Lean::Right),
        ("RETRIES", Lean::Right),
        ("IN", Lean::Right),
        ("OUT", Lean::Right),
        ("EJECTED", Lean::Left),
    ];
    let row = |name: String, load: &ProxyLoad, ejected: Option<&str>| {
        let traffic = &load.traffic;
        [
            name,
            load.active.to_string(),
            load.queued.to_string(),
            units::count(traffic.requests),
            units::count(traffic.status_2xx),
            units::count(traffic.status_3xx),
            units::count(traffic.status_4xx),
            units::count(traffic.status_5xx),
            units::count(traffic.retries),
            units::bytes(traffic.bytes_in),
            units::bytes(traffic.bytes_out),
            ejected.unwrap_or_default().to_owned(),
        ]
    };
    let rows = backends.iter().flat_map(|backend| {
        let whole = backend.proxy.iter().map(|load| row(backend.name.clone(), load, None));
        let servers = backend.servers.iter().filter_map(|server| {
            let name = format!("{}/{}", backend.name, server.name);
            Some(row(name, server.proxy.as_ref()?, server.ejected.as_deref()))
        });
        whole.chain(servers)
    });
    table(columns, rows)
}

/// Its weight, and how much of it it has while it grows.
fn weight(server: &ServerView) -> String {
    match server.grown_percent {
        Some(percent) => format!("{percent} % of {}", server.weight),
        None => server.weight.to_string(),
    }
}

/// Its flows, and how many it may have.
fn flows(server: &ServerView) -> String {
    let now = units::count(server.flows_now);
    match server.max_connections {
        Some(most) => format!("{now} of {}", units::count(most.into())),
        None => now,
    }
}

fn servers(backends: &[BackendView]) -> String {
    let columns = [
        ("SERVER", Lean::Left),
        ("ADDRESS", Lean::Left),
        ("STATE", Lean::Left),
        ("FOR", Lean::Right),
        ("WEIGHT", Lean::Right),
        ("FLOWS", Lean::Right),
        ("OPENED", Lean::Right),
        ("IN", Lean::Right),
        ("OUT", Lean::Right),
        ("CHECK", Lean::Left),
        ("REASON", Lean::Left),
    ];
    let rows = backends.iter().flat_map(|backend| {
        backend.servers.iter().map(move |server| {
            let backup = if server.backup { " (backup)" } else { "" };
            [
                format!("{}/{}{backup}", backend.name, server.name),
                server.address.to_string(),
                state_name(server),
                units::duration(server.state_s),
                weight(server),
                flows(server),
                units::count(server.traffic.flows),
                units::bytes(server.traffic.forward_bytes),
                units::bytes(server.traffic.reply_bytes),
                backend.check.clone(),
                server.reason.clone(),
            ]
        })
    });
    table(columns, rows)
}
