//! `snat: false`: servers see their clients' own addresses, and answer by way of the balancer,
//! which is their router.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pointsman::{admin::api::FlowsView, model::state::ServerState};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, Conversation},
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

const SERVERS: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(5);
/// A port of a VIP and of servers for [`seen_by`].
const SEEN: u16 = 7700;

fn services(bed: &Bed) -> Vec<Service> {
    let mut services = Service::all_embedded(bed);
    for family in Family::BOTH {
        let mut seen = Service::embedded(bed, ("seen", SEEN, SEEN), "tcp", family);
        seen.check = String::new();
        seen.servers.truncate(1);
        services.push(seen);
    }
    services
}

fn with_half_nat(text: &str) -> String {
    text.replace("forward: nat", "forward: nat, snat: false")
}

fn scene(test: impl FnOnce(&Bed, &mut Agent<'_>) -> Result<()>) -> Result<()> {
    let bed = Bed::new(SERVERS, Mode::from_environment()?)?;
    for index in 0..SERVERS {
        bed.route_back(index, &[])?;
    }
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(services(&bed));
    configuration.datapath_options = vec!["sweep_interval: 200ms".into()];
    agent.configure_text(&with_half_nat(&configuration.render()))?;
    agent.start()?;
    test(&bed, &mut agent)
}

/// Whom server 0 takes for its client, when that connects to the VIP.
fn seen_by(bed: &Bed, family: Family) -> Result<(SocketAddr, SocketAddr)> {
    let address = SocketAddr::new(Bed::server_address(0, family), SEEN);
    let listener = bed.server(0)?.run(|| Ok(TcpListener::bind(address)?))?;
    let connect = || {
        let stream = TcpStream::connect_timeout(&Bed::vip(family, SEEN), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let mut stream = bed.client.run(connect)?;
    let (accepted, peer) = listener.accept()?;
    drop(accepted);
    // The server's FIN comes back as the VIP's.
    ensure!(stream.read(&mut [0])? == 0, "data from nobody");
    Ok((peer, stream.local_addr()?))
}

#[test]
fn servers_see_their_clients_and_connections_succeed() -> Result<()> {
    scene(|bed, agent| {
        for family in Family::BOTH {
            let (peer, own) = seen_by(bed, family)?;
            ensure!(peer == own, "the server sees {peer}, the client is {own}");
            let (tcp, udp) = (Bed::vip(family, port::LINE), Bed::vip(family, port::UDP));
            let tally = bed.client.run(|| Ok(clients::short_connections(tcp, 2000, 8)))?;
            note(format!("half NAT {}: {tally}", family.name()));
            tally.require_all(2000)?;
            ensure!(tally.answers.len() == usize::from(SERVERS), "not spread: {tally}");
            let tally = bed.client.run(|| Ok(clients::udp_exchanges(udp, 300, 4)))?;
            tally.require_all(300)?;
            let (source, digest) = (Bed::vip(family, port::SOURCE), Bed::vip(family, port::DIGEST));
            bed.client.run(|| Ok(clients::download(source, 16 << 20)?))?;
            bed.client.run(|| Ok(clients::upload(digest, 16 << 20)?))?;
        }
        let listed = agent.cli_good(&["flows", "--json", "--protocol", "tcp"])?;
        let flows: FlowsView = serde_json::from_str(&listed)?;
        ensure!(!flows.flows.is_empty(), "no flow is listed");
        ensure!(flows.flows.iter().all(|flow| flow.snat == flow.client), "{listed}");
        ensure!(agent.status()?.vips.iter().all(|vip| vip.forward == "nat" && !vip.snat));
        ensure!(agent.cli_good(&["status"])?.contains("half nat"));
        Ok(())
    })
}

/// The balancer is the servers' router for everything else.
#[test]
fn servers_own_connections_pass() -> Result<()> {
    scene(|bed, _| {
        for family in Family::BOTH {
            let address = SocketAddr::new(Bed::client_address(family), 7800);
            let listener = bed.client.run(|| Ok(TcpListener::bind(address)?))?;
            let connect = || Ok(TcpStream::connect_timeout(&address, PATIENCE)?);
            let stream = bed.server(0)?.run(connect).context("a server as a client")?;
            let (_, peer) = listener.accept()?;
            ensure!(peer == stream.local_addr()?, "translated to {peer}");
        }
        Ok(())
    })
}

#[test]
fn clients_of_a_dead_server_are_reset_and_go_elsewhere() -> Result<()> {
    scene(|bed, agent| {
        let vip = Bed::vip(Family::V4, port::LINE);
        let open =
            || Ok((0..60).map(|_| Conversation::open(vip)).collect::<Result<Vec<_>, _>>()?);
        let conversations = bed.client.run(open)?;
        let (mut dying, mut staying): (Vec<_>, Vec<_>) =
            conversations.into_iter().partition(|one| one.server() == "s0");
        ensure!(!dying.is_empty() && !staying.is_empty(), "not spread");
        bed.cut(0)?;
        agent.wait_for_server("line4", "s0", ServerState::Down)?;
        for conversation in &mut dying {
            ensure!(conversation.say().is_err(), "a dead server answered");
        }
        for conversation in &mut staying {
            conversation.say()?;
        }
        let tally = bed.client.run(|| Ok(clients::short_connections(vip, 300, 4)))?;
        tally.require_all(300)?;
        bed.reconnect(0)?;
        bed.route_back(0, &[])?;
        agent.wait_for_server("line4", "s0", ServerState::Up)?;
        wait_until("s0 to answer again", PATIENCE, || {
            let tally = bed.client.run(|| Ok(clients::short_connections(vip, 60, 4)))?;
            tally.require_all(60)?;
            ensure!(tally.answers.contains_key("s0"), "{tally}");
            Ok(())
        })
        .map(drop)
    })
}

/// What was opened goes on when no frontend has half NAT any more, for as long as it lives.
#[test]
fn flows_outlive_the_change_to_full_nat() -> Result<()> {
    scene(|bed, agent| {
        let vips = Family::BOTH.map(|family| Bed::vip(family, port::LINE));
        let open = || Ok(vips.map(Conversation::open));
        let mut conversations = Vec::new();
        for conversation in bed.client.run(open)? {
            conversations.push(conversation?);
        }
        agent.configure_text(&{
            let mut configuration = agent.configuration(services(bed));
            configuration.datapath_options = vec!["sweep_interval: 200ms".into()];
            configuration.render()
        })?;
        agent.reload()?;
        let balancer = Bed::snat_address(0, Family::V4);
        let translated = wait_until("full NAT", PATIENCE, || {
            let (peer, _) = seen_by(bed, Family::V4)?;
            let seen: IpAddr = peer.ip();
            ensure!(seen == balancer, "the server sees {peer}");
            Ok(())
        });
        translated.map(drop)?;
        // Sweeps look for flows that need the servers' bits of the filter, and find them.
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(100));
            for conversation in &mut conversations {
                conversation.say()?;
            }
        }
        Ok(())
    })
}
