//! Traffic of every kind through VIPs, with the kernel's own TCP on both sides. Nothing is
//! disturbed meanwhile, so not one exchange may fail.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, Conversation, Tally, UdpConversation},
    configuration::Service,
    fleet::Fleet,
    report::note,
    servers::{Embedded, port},
};

/// A bed with servers and a ready agent, for one test.
fn through_vips(
    servers: u8,
    test: impl FnOnce(&Bed, &Fleet<'_>, &Agent<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(servers, Mode::from_environment()?)?;
    let fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    test(&bed, &fleet, &agent)
}

/// Every server got its share: with three servers each gets a third, give or take.
fn require_balance(tally: &Tally, servers: u64) -> Result<()> {
    let total = tally.succeeded();
    for (name, answers) in &tally.answers {
        let (low, high) = (total * 8 / (servers * 10), total * 12 / (servers * 10));
        ensure!((low..=high).contains(answers), "{name} got {answers} of {total}: {tally}");
    }
    ensure!(tally.answers.len() as u64 == servers, "not every server answered: {tally}");
    Ok(())
}

#[test]
fn ten_thousand_short_connections_succeed_and_are_spread() -> Result<()> {
    through_vips(3, |bed, _, _| {
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::LINE);
            let tally = bed.client.run(|| Ok(clients::short_connections(vip, 10_000, 16)))?;
            note(format!("{}: {tally}, {} a second", family.name(), tally.per_second()));
            tally.require_all(10_000)?;
            require_balance(&tally, 3)?;
        }
        Ok(())
    })
}

#[test]
fn udp_datagrams_are_answered_and_spread() -> Result<()> {
    through_vips(3, |bed, fleet, _| {
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::UDP);
            let tally = bed.client.run(|| Ok(clients::udp_exchanges(vip, 3000, 8)))?;
            tally.require_all(3000)?;
            require_balance(&tally, 3)?;
        }
        let answered: u64 =
            (0..3).map(|index| Ok(fleet.server(index)?.datagrams())).sum::<Result<u64>>()?;
        ensure!(answered == 6000, "{answered} datagrams reached servers");
        Ok(())
    })
}

#[test]
fn a_udp_flow_stays_with_its_server_at_every_size() -> Result<()> {
    through_vips(3, |bed, _, _| {
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::UDP);
            bed.client.run(|| {
                let mut conversation = UdpConversation::open(vip)?;
                let server = conversation.say(0)?;
                // Up to what fits a packet of 1500 bytes, and beyond: the kernels on either side
                // send fragments.
                let long = [1440, 1480, 1500, 2900, 3000, 8000, 20_000, 60_000];
                for padding in (0..1400).step_by(100).chain([1400]).chain(long) {
                    let again = conversation.say(padding)?;
                    ensure!(again == server, "{again} answered in place of {server}");
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn bulk_transfers_arrive_whole_in_both_directions() -> Result<()> {
    const BYTES: u64 = 128 << 20;
    through_vips(2, |bed, _, _| {
        for family in Family::BOTH {
            let (source, digest) = (Bed::vip(family, port::SOURCE), Bed::vip(family, port::DIGEST));
            let down = bed.client.run(|| Ok(clients::download(source, BYTES)?))?;
            let up = bed.client.run(|| Ok(clients::upload(digest, BYTES)?))?;
            for (direction, transfer) in [("down", &down), ("up", &up)] {
                ensure!(transfer.fingerprint.bytes == BYTES);
                note(format!(
                    "{} {direction}: {} Mbit/s, SHA-256 {}",
                    family.name(),
                    transfer.megabits_per_second(),
                    transfer.fingerprint.sha256
                ));
            }
        }
        Ok(())
    })
}

#[test]
fn a_half_closed_connection_still_carries_the_other_direction() -> Result<()> {
    through_vips(2, |bed, _, _| {
        for family in Family::BOTH {
            let source = Bed::vip(family, port::SOURCE);
            bed.client.run(|| {
                // Larger than any socket buffer: most of it is sent after the client's FIN.
                let transfer = clients::download_half_closed(source, 32 << 20)?;
                ensure!(transfer.fingerprint.bytes == 32 << 20);
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn idle_connections_go_on_where_they_stopped() -> Result<()> {
    const CONNECTIONS: usize = 300;
    through_vips(3, |bed, fleet, _| {
        let open = |family| {
            let vip = Bed::vip(family, port::LINE);
            let open = move || Ok((0..CONNECTIONS).map(|_| Conversation::open(vip)).collect());
            bed.client.run::<Vec<_>>(open)
        };
        let conversations = [open(Family::V4)?, open(Family::V6)?].into_iter().flatten();
        let mut conversations = conversations.collect::<Result<Vec<_>, _>>()?;
        let names: BTreeSet<_> =
            conversations.iter().map(|conversation| conversation.server().to_owned()).collect();
        ensure!(names.len() == 3, "only {names:?} answered");
        // Longer than the sweep interval, with other traffic coming and going.
        let idle = Instant::now();
        while idle.elapsed() < Duration::from_secs(6) {
            let vip = Bed::vip(Family::V4, port::LINE);
            let tally = bed.client.run(|| Ok(clients::short_connections(vip, 200, 2)))?;
            tally.require_all(200)?;
            thread::sleep(Duration::from_millis(300));
        }
        for conversation in &mut conversations {
            conversation.say()?;
        }
        let open: usize = (0..3)
            .map(|index| Ok(fleet.server(index)?.open_connections()))
            .sum::<Result<usize>>()?;
        ensure!(open >= 2 * CONNECTIONS, "only {open} connections are open at the servers");
        Ok(())
    })
}

#[test]
fn the_port_of_a_vip_need_not_be_the_servers() -> Result<()> {
    through_vips(2, |bed, _, _| {
        for family in Family::BOTH {
            let answer = bed.client.run(|| {
                let stream = std::net::TcpStream::connect(Bed::vip(family, 80))?;
                Ok(clients::get(stream, "/")?)
            })?;
            ensure!(answer.status == 200 && answer.body.starts_with('s'), "{answer:?}");
        }
        Ok(())
    })
}

/// One client port that reconnects as soon as its last connection has ended: the tuple is
/// the same, the servers still have the old connection in TIME_WAIT, and nothing may wait
/// for a timeout.
#[test]
fn a_recycled_tuple_connects_at_once() -> Result<()> {
    through_vips(3, |bed, _, _| {
        for family in Family::BOTH {
            let local = SocketAddr::new(Bed::client_address(family), 45_000);
            let vip = Bed::vip(family, 80);
            let start = Instant::now();
            let names = bed.client.run(|| {
                let mut names = BTreeSet::new();
                for round in 0..200 {
                    // The server closes first, so the client's port is free at once.
                    let stream = clients::connect_from(local, vip);
                    let stream = stream.map_err(|error| {
                        anyhow::Error::from(error).context(format!("connection {round}"))
                    })?;
                    names.insert(clients::get(stream, "/")?.body);
                }
                Ok(names)
            })?;
            let elapsed = start.elapsed();
            ensure!(names.len() == 1, "one tuple went to several servers: {names:?}");
            ensure!(elapsed < Duration::from_secs(3), "200 connections took {elapsed:?}");
        }
        Ok(())
    })
}

/// The balancer's own traffic is none of the data plane's business.
#[test]
fn what_is_not_a_vip_passes_to_the_kernel() -> Result<()> {
    through_vips(1, |bed, _, _| {
        let _own = Embedded::start(&bed.balancer, "balancer")?;
        for family in Family::BOTH {
            let tcp = SocketAddr::new(Bed::balancer_address(family), port::LINE);
            let udp = SocketAddr::new(Bed::balancer_address(family), port::UDP);
            bed.client.run(|| {
                clients::short_connections(tcp, 100, 2).require_all(100)?;
                clients::udp_exchanges(udp, 100, 2).require_all(100)
            })?;
        }
        // A VIP's address without a VIP on that port is nobody's.
        let unserved = Bed::vip(Family::V4, 9);
        let answer = bed.client.run(|| Ok(clients::ask(unserved)))?;
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })
}
