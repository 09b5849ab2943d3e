//! Checks that go the way of traffic (`check: {via: vip}`): they notice what a check of the
//! server's own address does not.
//!
//! The servers answer checks on every address all the time. What goes and comes back is the
//! VIP on one of them, or the end of its tunnel.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::forward::Forward;
use pointsman::model::state::ServerState;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients,
    configuration::{Service, quoted},
    fleet::{self, Fleet},
    namespace::{Namespace, write_sysctl},
    process::wait_until,
    servers::{port, tunnel_end::TunnelEnd},
};

const SERVERS: u8 = 2;
const VIA_VIP: &str = "{type: http, path: /health, port: 8080, via: vip, interval: 200ms, \
     fast_interval: 50ms, timeout: 200ms, fall: 2, rise: 2}";
const HANDSHAKE_VIA_VIP: &str =
    "{type: tcp, via: vip, interval: 200ms, fast_interval: 50ms, timeout: 200ms, fall: 2, rise: 2}";
const VIA_SERVER: &str = "{type: http, path: /health, port: 8080, interval: 200ms, \
     fast_interval: 50ms, timeout: 200ms, fall: 2, rise: 2}";

fn hold_vip(server: &Namespace, family: Family) -> Result<()> {
    server.ip(&["addr", "add", &vip_prefix(family), "dev", "lo", "nodad"])
}

fn lose_vip(server: &Namespace, family: Family) -> Result<()> {
    server.ip(&["addr", "del", &vip_prefix(family), "dev", "lo"])
}

fn vip_prefix(family: Family) -> String {
    let length = if family == Family::V4 { 32 } else { 128 };
    format!("{}/{length}", Bed::vip(family, 1).ip())
}

/// The same service three times: checked by request and by handshake the way of traffic, and
/// by request at the server's own address.
fn services(forward: Forward, family: Family) -> Vec<Service> {
    let service = |name: &str, port, check: &str| {
        let address = |index| SocketAddr::new(Bed::server_address(index, family), port);
        Service {
            name: name.to_owned(),
            vip: Bed::vip(family, port),
            protocol: "tcp",
            forward,
            frontend_options: Vec::new(),
            options: Vec::new(),
            check: check.to_owned(),
            servers: (0..SERVERS).map(|n| (fleet::name(n), quoted(address(n)))).collect(),
        }
    };
    vec![
        service("request", port::LINE, VIA_VIP),
        service("handshake", port::DIGEST, HANDSHAKE_VIA_VIP),
        service("direct", port::SOURCE, VIA_SERVER),
    ]
}

/// Servers of which the first loses, and gets back, what its traffic needs.
fn notices(forward: Forward, family: Family, mode: Mode) -> Result<()> {
    let bed = Bed::new(SERVERS, mode)?;
    let _fleet = Fleet::start(&bed)?;
    let mut ends = Vec::new();
    for index in 0..SERVERS {
        let server = bed.server(index)?;
        server.run(|| {
            write_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            write_sysctl("net/ipv4/conf/all/arp_announce", "2")
        })?;
        hold_vip(server, family)?;
        bed.route_back(index, &["advmss", "1380"])?;
        if forward.encapsulates() {
            ends.push(TunnelEnd::start(server, forward, family)?);
        }
    }
    let agent = Agent::launch(&bed, services(forward, family))?;
    for name in ["request", "handshake", "direct"] {
        for index in 0..SERVERS {
            agent.wait_for_server(name, &fleet::name(index), ServerState::Up)?;
        }
    }
    let vip = Bed::vip(family, port::LINE);
    let all = bed.client.run(|| Ok(clients::short_connections(vip, 100, 4)))?;
    all.require_all(100)?;
    ensure!(all.answers.len() == usize::from(SERVERS), "not spread: {all}");

    let by_kernel = ends.first().is_some_and(TunnelEnd::is_by_kernel);
    let first = bed.server(0)?;
    if forward.encapsulates() && !by_kernel {
        drop(ends.remove(0));
    } else {
        lose_vip(first, family)?;
    }
    agent.wait_for_server("request", "s0", ServerState::Down)?;
    agent.wait_for_server("handshake", "s0", ServerState::Down)?;
    agent.wait_for_server("direct", "s0", ServerState::Up)?;
    agent.wait_for_server("request", "s1", ServerState::Up)?;
    let rest = bed.client.run(|| Ok(clients::short_connections(vip, 60, 4)))?;
    rest.require_all(60)?;
    ensure!(!rest.answers.contains_key("s0"), "traffic goes to a server without VIP: {rest}");

    // As where the balancer has the VIP itself, and lets nobody else have it. (It is no way for
    // answers then.)
    hold_vip(&bed.balancer, family)?;
    bed.balancer.run(|| write_sysctl("net/ipv4/conf/all/rp_filter", "1"))?;
    if forward.encapsulates() && !by_kernel {
        ends.insert(0, TunnelEnd::start(first, forward, family)?);
    } else {
        hold_vip(first, family)?;
    }
    agent.wait_for_server("request", "s0", ServerState::Up)?;
    agent.wait_for_server("handshake", "s0", ServerState::Up)
}

#[test]
fn checks_notice_a_vip_that_is_missing_dsr4() -> Result<()> {
    notices(Forward::Dsr, Family::V4, Mode::from_environment()?)
}

#[test]
fn checks_notice_a_vip_that_is_missing_dsr6_generic() -> Result<()> {
    notices(Forward::Dsr, Family::V6, Mode::Generic)
}

#[test]
fn checks_notice_a_tunnel_that_is_missing_ipip4() -> Result<()> {
    notices(Forward::Ipip, Family::V4, Mode::from_environment()?)
}

#[test]
fn checks_notice_a_tunnel_that_is_missing_ipip6() -> Result<()> {
    notices(Forward::Ipip, Family::V6, Mode::from_environment()?)
}

#[test]
fn checks_notice_a_tunnel_that_is_missing_gue4() -> Result<()> {
    notices(Forward::Gue, Family::V4, Mode::from_environment()?)
}

#[test]
fn checks_notice_a_tunnel_that_is_missing_gue6() -> Result<()> {
    notices(Forward::Gue, Family::V6, Mode::from_environment()?)
}

/// The classifiers are there while a check goes their way, and not a moment longer.
#[test]
fn nothing_is_attached_that_no_check_needs() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    hold_vip(bed.server(0)?, Family::V4)?;
    bed.route_back(0, &[])?;
    let mut services = services(Forward::Dsr, Family::V4);
    services.iter_mut().for_each(|service| service.servers.truncate(1));
    let mut agent = Agent::launch(&bed, services.clone())?;
    agent.wait_for_server("request", "s0", ServerState::Up)?;
    ensure!(classifiers(&bed)? == 4, "two interfaces have two each");

    let mut without = services.clone();
    without.iter_mut().for_each(|service| service.check = VIA_SERVER.into());
    agent.configure(&agent.configuration(without))?;
    agent.reload()?;
    wait_for_classifiers(&bed, 0)?;

    agent.configure(&agent.configuration(services))?;
    agent.reload()?;
    wait_for_classifiers(&bed, 4)?;
    agent.kill();
    wait_for_classifiers(&bed, 0)
}

/// Classifiers on the balancer's interfaces. (Of tcx `bpftool` knows since 7.4.)
fn classifiers(bed: &Bed) -> Result<usize> {
    bed.balancer.run(|| {
        let mut found = 0;
        for interface in bed.interfaces() {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_revision, programs) = SchedClassifier::query_tcx(&interface, side)?;
                found += programs.len();
            }
        }
        Ok(found)
    })
}

fn wait_for_classifiers(bed: &Bed, count: usize) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let waited = wait_until(&format!("{count} classifiers"), PATIENCE, || {
        let found = classifiers(bed)?;
        ensure!(found == count, "{found}");
        Ok(())
    });
    waited.map(drop)
}
