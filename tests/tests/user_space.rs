//! Frontends of layer 4 without a data plane (`datapath.mode: off`): served in user space, by
//! an agent that has no privilege at all. On loopback.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pointsman::admin::api::FlowsView;
use testbed::{
    loopback::{Loopback, PATIENCE, free, greeter, greeter_on, greeting},
    process::wait_until,
};

/// Two servers behind one VIP; the frontend and the backend have these further keys.
fn sections(vip: SocketAddr, servers: [SocketAddr; 2], frontend: &str, backend: &str) -> String {
    let [a, b] = servers;
    format!(
        "frontends: {{db: {{mode: l4, bind: [\"{vip}\"], backend: pg{frontend}}}}}\n\
         backends: {{pg: {{servers: {{a: \"{a}\", b: \"{b}\"}}{backend}}}}}\n"
    )
}

fn servers() -> Result<[SocketAddr; 2]> {
    Ok([greeter("a")?, greeter("b")?])
}

/// Whether a connection is refused, or cut off before a server greets.
fn is_kept_out(vip: SocketAddr) -> Result<bool> {
    match greeting(vip, 1) {
        Ok(_) => Ok(false),
        Err(error) => {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let wanted = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
            ensure!(kind.is_some_and(|kind| wanted.contains(&kind)), "{error:#}");
            Ok(true)
        }
    }
}

/// Whether what is said still comes back.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok() && &byte == b"x"
}

#[test]
fn an_agent_without_privilege_serves_layer_4() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let vip = free()?;
    place.start(&sections(vip, servers()?, "", ", balance: maglev, hash: source"))?;
    let status = place.process_file("status")?;
    if nix::unistd::geteuid().is_root() {
        ensure!(status.contains("\nUid:\t65534\t65534\t"), "{status}");
    }
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let is_empty = status.contains(&format!("\n{set}:\t0000000000000000\n"));
        ensure!(is_empty || !nix::unistd::geteuid().is_root(), "{set} in {status}");
    }

    // One source, one server.
    let first = greeting(vip, 1)?;
    for _ in 0..8 {
        let (mut stream, greeted) = greeting(vip, 1)?;
        ensure!(greeted == first.1, "{greeted} after {}", first.1);
        ensure!(echoes(&mut stream));
    }
    drop(first);
    let line = &place.log(9)?[0];
    ensure!(line["frontend"] == "db" && line["backend"] == "pg", "{line}");

    let view = place.status()?;
    let shown = view.vips.first().context("the VIP is shown")?;
    ensure!(
        (shown.address, &*shown.forward, shown.traffic.flows) == (vip, "proxy", 9),
        "{shown:?}"
    );
    let frontend = view.frontends.first().context("it is a frontend of the proxy")?;
    ensure!((&*frontend.name, &*frontend.mode) == ("db", "l4"), "{frontend:?}");
    ensure!(frontend.listen == [vip.to_string()] && frontend.traffic.requests == 9, "{frontend:?}");
    let said = place.command(&["status"])?;
    ensure!(said.contains("data plane: off; frontends of layer 4 are served in user space"));
    let said = place.doctor()?;
    ensure!(said.contains("served in user space, without privilege"), "{said}");
    Ok(())
}

#[test]
fn a_vip_of_ipv6_is_served_and_its_connections_are_listed() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let local: IpAddr = Ipv6Addr::LOCALHOST.into();
    let servers = [greeter_on("a", local)?, greeter_on("b", local)?];
    let six = TcpListener::bind((local, 0))?.local_addr()?;
    place.start(&sections(six, servers, "", ""))?;
    let (mut stream, greeted) = greeting(six, 1)?;
    ensure!(echoes(&mut stream));
    let client = stream.local_addr()?;
    ensure!(client.is_ipv6());
    let listed = || -> Result<FlowsView> {
        Ok(serde_json::from_str(&place.command(&["flows", "--json"])?)?)
    };
    let flows = listed()?.flows;
    let [flow] = flows.as_slice() else { bail!("{flows:?}") };
    ensure!((flow.client, flow.vip, &*flow.state) == (client, six, "established"), "{flow:?}");
    ensure!(flow.server_name.as_deref() == Some(&format!("pg/{greeted}")), "{flow:?}");
    ensure!((flow.forward_bytes, flow.reply_bytes) == (1, 2), "{flow:?}");
    ensure!(servers.contains(&flow.server) && flow.snat.port() != 0, "{flow:?}");
    let view = place.status()?;
    ensure!(view.vips[0].traffic.flows == 1, "it counts while it lasts: {:?}", view.vips);
    drop(stream);
    wait_until("it to be gone from the list", PATIENCE, || {
        ensure!(listed()?.flows.is_empty());
        Ok(())
    })?;
    let carried = place.status()?.vips[0].traffic;
    ensure!((carried.flows, carried.forward_bytes, carried.reply_bytes) == (1, 1, 2));
    Ok(())
}

#[test]
fn connections_go_in_turn_and_a_full_server_overflows_or_refuses() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let (vip, servers) = (free()?, servers()?);
    let [a, b] = servers;
    let with = |more: &str| {
        let limited =
            format!("servers: {{a: {{address: \"{a}\", max_connections: 1}}, b: \"{b}\"}}");
        sections(vip, servers, "", more)
            .replace(&format!("servers: {{a: \"{a}\", b: \"{b}\"}}"), &limited)
    };
    place.start(&with(", balance: round-robin"))?;
    let held = (0..6).map(|_| greeting(vip, 1)).collect::<Result<Vec<_>>>()?;
    let count = |held: &[(TcpStream, String)], name| held.iter().filter(|(_, n)| n == name).count();
    ensure!((count(&held, "a"), count(&held, "b")) == (1, 5), "{held:?}");
    place.reload(&with(", balance: round-robin, on_full: reset"))?;
    let refused = (0..4).map(|_| is_kept_out(vip)).collect::<Result<Vec<_>>>()?;
    ensure!(refused.iter().filter(|refused| **refused).count() == 2, "{refused:?}");
    ensure!(place.command(&["drops"])?.contains("server_full"));
    Ok(())
}

#[test]
fn a_server_that_drains_finishes_and_the_clients_of_a_dead_one_are_told() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let (vip, servers) = (free()?, servers()?);
    let by_source = ", balance: maglev, hash: source";
    place.start(&sections(vip, servers, "", by_source))?;
    let (mut old, own) = greeting(vip, 1)?;
    let other = if own == "a" { "b" } else { "a" };
    let server = format!("pg/{own}");
    place.command(&["server", "set", &server, "--state", "drain"])?;
    wait_until("new connections to go elsewhere", PATIENCE, || {
        let (_, now) = greeting(vip, 1)?;
        ensure!(now == other, "{now}");
        Ok(())
    })?;
    ensure!(echoes(&mut old), "it drains, and its connections go on");
    place.command(&["server", "set", &server, "--state", "maint"])?;
    wait_until("the client to be told", PATIENCE, || {
        ensure!(!echoes(&mut old), "it still echoes");
        Ok(())
    })?;

    place.command(&["server", "set", &server, "--state", "ready"])?;
    place.reload(&sections(vip, servers, "", &format!("{by_source}, on_down: keep")))?;
    let mut kept = None;
    wait_until("the server to be used again", PATIENCE, || {
        let (stream, now) = greeting(vip, 1)?;
        ensure!(now == own, "{now}");
        kept = Some(stream);
        Ok(())
    })?;
    place.command(&["server", "set", &server, "--state", "maint"])?;
    wait_until("new connections to go elsewhere", PATIENCE, || {
        ensure!(greeting(vip, 1)?.1 == other);
        Ok(())
    })?;
    ensure!(kept.as_mut().is_some_and(echoes), "its connections are kept");
    Ok(())
}

#[test]
fn lists_of_sources_and_limits_of_a_source_hold() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let (vip, servers) = (free()?, servers()?);
    place.start(&sections(vip, servers, ", deny: [127.0.0.0/8]", ""))?;
    ensure!(is_kept_out(vip)?, "a source that is denied is let in");
    place.reload(&sections(vip, servers, ", allow: [127.0.0.1], deny: [127.0.0.0/8]", ""))?;
    let admitted = || {
        ensure!(!is_kept_out(vip)?, "it is still kept out");
        Ok(())
    };
    wait_until("the longest prefix to decide", PATIENCE, admitted)?;
    place.reload(&sections(vip, servers, ", allow: [10.0.0.0/8]", ""))?;
    let refused = || {
        ensure!(is_kept_out(vip)?, "it is still let in");
        Ok(())
    };
    wait_until("who is not allowed to be kept out", PATIENCE, refused)?;
    place.reload(&sections(vip, servers, ", limits: {connections_per_source: 1}", ""))?;
    let held = wait_until("the limit to be in force", PATIENCE, || greeting(vip, 1))?.0;
    ensure!(is_kept_out(vip)?, "a second connection is let in");
    drop(held);
    wait_until("its place to be free", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(10));
        greeting(vip, 1)
    })?;
    ensure!(place.log(5)?.iter().any(|line| line["reason"] == "denied"));
    Ok(())
}

#[test]
fn what_means_nothing_without_a_data_plane_is_warned_of() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    place.datapath = ", syn_cookies: always, interfaces: [eth7], answer_echo: false".into();
    place.start(&sections(free()?, servers()?, ", limits: {packets: {rate: 10}}", ""))?;
    let warnings = place.status()?.warnings.join("\n");
    for key in ["syn_cookies", "interfaces", "answer_echo"] {
        let wanted = format!("datapath.{key}: does nothing with `mode: off`");
        ensure!(warnings.contains(&wanted), "{warnings}");
    }
    ensure!(warnings.contains("limits packets, which holds for UDP alone"), "{warnings}");
    Ok(())
}

#[test]
fn sources_are_blocked_at_run_time_and_who_is_in_is_cut_off() -> Result<()> {
    let mut place = Loopback::unprivileged()?;
    let vip = free()?;
    let limits = ", limits: {new_flows: {rate: 1, burst: 30}}";
    place.start(&sections(vip, servers()?, limits, ""))?;
    let (mut held, _) = greeting(vip, 1)?;
    ensure!(echoes(&mut held));
    place.command(&["block", "127.0.0.0/8", "--frontend", "db", "--for", "1h"])?;
    ensure!(is_kept_out(vip)?, "a source that is blocked is let in");
    wait_until("who is in to be cut off", PATIENCE, || {
        ensure!(!echoes(&mut held), "it still echoes");
        Ok(())
    })?;
    let lines = place.log(2)?;
    ensure!(lines.iter().filter(|line| line["reason"] == "blocked").count() == 2, "{lines:?}");
    place.command(&["unblock", "127.0.0.0/8", "--frontend", "db"])?;
    ensure!(!is_kept_out(vip)?, "it is not blocked any more");
    place.command(&["access", "limit", "db", "--connections-per-source", "1"])?;
    let held = greeting(vip, 1)?;
    ensure!(is_kept_out(vip)?, "a second connection is let in");
    drop(held);
    // Thirty at once, and one for each second that this takes.
    place.command(&["access", "limit", "db", "--connections-per-source", "none"])?;
    let refused = (0..100).map(|_| is_kept_out(vip)).collect::<Result<Vec<_>>>()?;
    ensure!(refused.contains(&true), "nobody is held back");
    let said = place.command(&["drops"])?;
    for reason in ["blocked", "flows_per_source", "new_rate"] {
        ensure!(said.contains(reason), "{reason} in {said}");
    }
    Ok(())
}
