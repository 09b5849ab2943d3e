//! The agent's netlink half against the kernel: interfaces, routes, next hops and VIP
//! addresses, in two namespaces joined by a veth pair.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::{IpAddr, TcpListener},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pointsman::network::{
    self, Announcer, Changes, Handle, NeighbourWatch, NetworkError, NextHop, link_by_name,
    reconcile_addresses, route_to,
};
use testbed::namespace::{Namespace, output, write_sysctl};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

const HERE: [u8; 6] = [2, 0, 0, 0, 9, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 9, 2];

/// `here` is where the code under test runs: `here0`, 10.9.0.1/24 and fd09::1/64, joined
/// to `peer0` with 10.9.0.2 and fd09::2, which is also the router to 10.8.0.0/16.
struct Pair {
    here: Namespace,
    peer: Namespace,
}

impl Pair {
    fn create() -> Result<Self> {
        let pair = Self { here: Namespace::create("here")?, peer: Namespace::create("peer")? };
        let peer_name = pair.peer.name();
        pair.here.ip(&[
            "link",
            "add",
            "here0",
            "address",
            &mac(HERE),
            "type",
            "veth",
            "peer",
            "name",
            "peer0",
            "address",
            &mac(PEER),
            "netns",
            peer_name,
        ])?;
        for (namespace, device, v4, v6) in [
            (&pair.here, "here0", "10.9.0.1/24", "fd09::1/64"),
            (&pair.peer, "peer0", "10.9.0.2/24", "fd09::2/64"),
        ] {
            namespace.ip(&["address", "add", v4, "dev", device])?;
            namespace.ip(&["address", "add", v6, "dev", device, "nodad"])?;
            namespace.ip(&["link", "set", device, "up"])?;
        }
        pair.here.ip(&["route", "add", "10.8.0.0/16", "via", "10.9.0.2"])?;
        // The kernel's patience with neighbours, cut so that a test need not wait a minute.
        pair.here.run(|| {
            for family in ["ipv4", "ipv6"] {
                let set = |key: &str, value: &str| {
                    write_sysctl(&format!("net/{family}/neigh/here0/{key}"), value)
                };
                set("retrans_time_ms", "100")?;
                set("delay_first_probe_time", "1")?;
                set("base_reachable_time_ms", "1000")?;
            }
            Ok(())
        })?;
        Ok(pair)
    }

    /// Runs an asynchronous test inside `here`.
    fn block_on<T: Send>(&self, test: impl AsyncFnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        self.here.run(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build()?.block_on(test(self))
        })
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address in a test")
}

fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

#[test]
fn an_interface_is_found_by_its_name() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        let link = link_by_name(&handle, "here0").await?;
        ensure!(link.name == "here0" && link.mac == HERE && link.mtu == 1500, "{link:?}");
        let index = nix::net::if_::if_nametoindex("here0")?;
        ensure!(link.index == index, "{link:?}, the kernel says {index}");
        ensure!(link_by_name(&handle, "lo").await?.mac == [0; 6]);
        pair.peer.ip(&["link", "set", "peer0", "down"])?;
        ensure!(!link_by_name(&handle, "here0").await?.up, "without a carrier it is not up");
        Ok(())
    })
}

#[test]
fn a_missing_interface_is_an_error_that_names_the_others() -> Result<()> {
    Pair::create()?.block_on(async |_| {
        let error = link_by_name(&network::open()?, "eth9").await.expect_err("there is no eth9");
        let text = error.to_string();
        ensure!(text.starts_with("there is no interface eth9; there are "), "{text}");
        ensure!(text.contains("lo") && text.contains("here0"), "{text}");
        Ok(())
    })
}

#[test]
fn routes_tell_next_hop_and_source() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        let index = link_by_name(&handle, "here0").await?.index;
        let check = async |to: &str, next_hop: &str, source: &str| {
            let route = route_to(&handle, ip(to)).await?;
            let found = (route.ifindex, route.next_hop(), route.source);
            ensure!(found == (index, ip(next_hop), ip(source)), "to {to}: {route:?}");
            Ok(())
        };
        check("10.9.0.7", "10.9.0.7", "10.9.0.1").await?;
        check("10.8.1.1", "10.9.0.2", "10.9.0.1").await?;
        check("fd09::7", "fd09::7", "fd09::1").await?;
        pair.here.ip(&["-6", "route", "add", "fd08::/64", "via", "fd09::2"])?;
        check("fd08::1", "fd09::2", "fd09::1").await?;
        Ok(())
    })
}

#[test]
fn an_unreachable_server_is_an_error_that_says_why() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        let error = async |to: &str| route_to(&handle, ip(to)).await.expect_err(to);
        for to in ["192.0.2.1", "2001:db8::1"] {
            let error = error(to).await;
            ensure!(matches!(error, NetworkError::NoRoute { .. }), "{error:?}");
        }
        for to in ["10.9.0.1", "127.0.0.1", "fd09::1"] {
            let error = error(to).await;
            ensure!(matches!(error, NetworkError::Local { .. }), "{error:?}");
        }
        pair.here.ip(&["route", "add", "blackhole", "192.0.2.0/24"])?;
        let error = error("192.0.2.1").await;
        ensure!(matches!(error, NetworkError::NoRoute { .. }), "{error:?}");
        Ok(())
    })
}

/// A neighbour watch at work on the current runtime.
struct Watching {
    servers: watch::Sender<BTreeSet<IpAddr>>,
    next_hops: watch::Receiver<BTreeMap<IpAddr, NextHop>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watching {
    fn start(servers: &[&str]) -> Result<Self> {
        let (servers, server_receiver) = watch::channel(set(servers));
        let (updates, next_hops) = watch::channel(BTreeMap::new());
        let cancel = CancellationToken::new();
        let run = NeighbourWatch::open()?.run(server_receiver, updates, cancel.clone());
        Ok(Self { servers, next_hops, cancel, task: tokio::spawn(run) })
    }

    /// Waits until exactly these servers have a next hop, with these neighbours.
    async fn until(&mut self, patience: Duration, expected: &[(&str, [u8; 6])]) -> Result<()> {
        let expected: BTreeMap<IpAddr, [u8; 6]> =
            expected.iter().map(|(text, mac)| (ip(text), *mac)).collect();
        let seen = |hops: &BTreeMap<IpAddr, NextHop>| {
            hops.iter().map(|(server, hop)| (*server, hop.neighbour)).collect::<BTreeMap<_, _>>()
        };
        let wait = self.next_hops.wait_for(|hops| seen(hops) == expected);
        let reached = timeout(patience, wait).await.map(|hops| hops.map(drop));
        reached
            .with_context(|| format!("expected {expected:?}, got {:?}", *self.next_hops.borrow()))?
            .context("the watch ended")
    }

    async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        self.task.await.context("the watch panicked")
    }
}

/// What the watch needs from an event to its update.
const PROMPT: Duration = Duration::from_secs(2);

#[test]
fn next_hops_of_all_servers_are_resolved() -> Result<()> {
    Pair::create()?.block_on(async |_| {
        // Nobody has 10.9.0.77, and nothing leads to 192.0.2.1.
        let servers = ["10.9.0.2", "fd09::2", "10.8.1.1", "10.9.0.77", "192.0.2.1"];
        let mut watching = Watching::start(&servers)?;
        let resolved = [("10.9.0.2", PEER), ("fd09::2", PEER), ("10.8.1.1", PEER)];
        watching.until(PROMPT, &resolved).await?;
        let index = link_by_name(&network::open()?, "here0").await?.index;
        let hops = watching.next_hops.borrow().clone();
        let expected = |source, routed| NextHop {
            ifindex: index,
            own: HERE,
            neighbour: PEER,
            source,
            mtu: 1500,
            routed,
        };
        ensure!(hops[&ip("10.8.1.1")] == expected(ip("10.9.0.1"), true), "{hops:?}");
        ensure!(hops[&ip("fd09::2")] == expected(ip("fd09::1"), false), "{hops:?}");

        watching.servers.send_replace(set(&["10.9.0.2"]));
        watching.until(PROMPT, &[("10.9.0.2", PEER)]).await?;
        watching.stop().await
    })
}

#[test]
fn a_server_that_changes_its_address_or_goes_away_is_noticed() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let mut watching = Watching::start(&["10.9.0.2", "fd09::2"])?;
        watching.until(PROMPT, &[("10.9.0.2", PEER), ("fd09::2", PEER)]).await?;
        // Unannounced, so that only a confirmation that fails can tell.
        let other = [2, 0, 0, 0, 9, 3];
        pair.peer.ip(&["link", "set", "peer0", "address", &mac(other)])?;
        let patience = Duration::from_secs(20);
        watching.until(patience, &[("10.9.0.2", other), ("fd09::2", other)]).await?;
        pair.peer.ip(&["address", "del", "10.9.0.2/24", "dev", "peer0"])?;
        watching.until(patience, &[("fd09::2", other)]).await?;
        pair.peer.ip(&["address", "add", "10.9.0.2/24", "dev", "peer0"])?;
        watching.until(patience, &[("10.9.0.2", other), ("fd09::2", other)]).await?;
        watching.stop().await
    })
}

#[test]
fn a_link_that_loses_its_carrier_has_no_next_hops() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let mut watching = Watching::start(&["10.9.0.2"])?;
        watching.until(PROMPT, &[("10.9.0.2", PEER)]).await?;
        pair.peer.ip(&["link", "set", "peer0", "down"])?;
        watching.until(Duration::from_secs(5), &[]).await?;
        pair.peer.ip(&["link", "set", "peer0", "up"])?;
        watching.until(Duration::from_secs(12), &[("10.9.0.2", PEER)]).await?;
        watching.stop().await
    })
}

#[test]
fn a_flushed_neighbour_keeps_its_next_hop() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let mut watching = Watching::start(&["10.9.0.2"])?;
        watching.until(PROMPT, &[("10.9.0.2", PEER)]).await?;
        for _ in 0..10 {
            pair.here.ip(&["neigh", "flush", "dev", "here0"])?;
            let change = timeout(Duration::from_millis(50), watching.next_hops.changed()).await;
            ensure!(change.is_err(), "published {:?}", *watching.next_hops.borrow());
        }
        // And it is asked after again, though no packet is sent to it.
        let started = Instant::now();
        while !output(Command::new("ip").args(["-n", pair.here.name(), "neigh"]))?
            .contains(&mac(PEER))
        {
            ensure!(started.elapsed() < Duration::from_secs(5), "never resolved again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watching.stop().await
    })
}

#[test]
fn next_hops_follow_routes_and_links() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let mut watching = Watching::start(&["10.8.1.1", "10.9.0.2"])?;
        watching.until(PROMPT, &[("10.8.1.1", PEER), ("10.9.0.2", PEER)]).await?;
        pair.here.ip(&["route", "del", "10.8.0.0/16"])?;
        watching.until(PROMPT, &[("10.9.0.2", PEER)]).await?;
        pair.here.ip(&["route", "add", "10.8.0.0/16", "via", "10.9.0.2", "src", "10.9.0.1"])?;
        watching.until(PROMPT, &[("10.8.1.1", PEER), ("10.9.0.2", PEER)]).await?;

        let own = [2, 0, 0, 0, 9, 9];
        pair.here.ip(&["link", "set", "here0", "address", &mac(own)])?;
        let renewed = watching
            .next_hops
            .wait_for(|hops| hops.len() == 2 && hops.values().all(|hop| hop.own == own));
        timeout(Duration::from_secs(5), renewed).await.context("the old MAC is still used")??;
        watching.stop().await
    })
}

#[test]
fn an_overrun_of_events_loses_nothing() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let mut watching = Watching::start(&["10.8.1.1"])?;
        watching.until(PROMPT, &[("10.8.1.1", PEER)]).await?;
        // The runtime has one thread, and these commands block it: nobody reads events
        // while they come, until the socket's buffer is full and the last one is dropped.
        let mut batch = String::new();
        for number in 0..3000 {
            let address = format!("10.9.{}.{}", 100 + number / 200, 1 + number % 200);
            writeln!(
                batch,
                "neigh replace {address} lladdr 02:00:00:00:00:01 nud permanent dev here0"
            )?;
        }
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("batch");
        fs::write(&file, batch)?;
        pair.here.ip(&["-batch", file.to_str().context("a path in UTF-8")?])?;
        pair.here.ip(&["route", "del", "10.8.0.0/16"])?;
        let drops = fs::read_to_string("/proc/thread-self/net/netlink")?;
        let overrun = drops.lines().any(|line| {
            line.split_whitespace()
                .nth(8)
                .is_some_and(|drops| drops.parse().is_ok_and(|n: u64| n > 0))
        });
        ensure!(overrun, "no socket overran, so this test shows nothing:\n{drops}");
        watching.until(PROMPT, &[]).await?;
        watching.stop().await
    })
}

async fn reconcile(handle: &Handle, device: &str, desired: &[&str]) -> Result<Changes> {
    let link = link_by_name(handle, device).await?;
    Ok(reconcile_addresses(handle, &link, &set(desired)).await?)
}

fn shown(pair: &Pair, device: &str) -> Result<String> {
    output(Command::new("ip").args([
        "-n",
        pair.here.name(),
        "-o",
        "address",
        "show",
        "dev",
        device,
    ]))
}

#[test]
fn vip_addresses_are_put_on_and_taken_off() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        let both = ["10.9.0.100", "fd09::100"];
        let changes = reconcile(&handle, "here0", &both).await?;
        ensure!(changes == Changes { added: set(&both), ..Changes::default() }, "{changes:?}");
        let list = shown(pair, "here0")?;
        ensure!(list.contains("10.9.0.100/32") && list.contains("fd09::100/128"), "{list}");

        let changes = reconcile(&handle, "here0", &both).await?;
        ensure!(changes == Changes::default(), "done already, but {changes:?}");

        // Another connection, as after a restart of the agent.
        let restarted = network::open()?;
        let changes = reconcile(&restarted, "here0", &["10.9.0.101"]).await?;
        let expected =
            Changes { added: set(&["10.9.0.101"]), removed: set(&both), ..Changes::default() };
        ensure!(changes == expected, "{changes:?}");
        let changes = reconcile(&restarted, "here0", &[]).await?;
        ensure!(changes.removed == set(&["10.9.0.101"]), "{changes:?}");
        let list = shown(pair, "here0")?;
        ensure!(list.contains("10.9.0.1/24") && list.contains("fd09::1/64"), "{list}");
        ensure!(!list.contains("10.9.0.10") && !list.contains("fd09::10"), "{list}");
        Ok(())
    })
}

/// Where a peer believes an address to be, and how sure it is.
fn believed(pair: &Pair, address: &str) -> Result<String> {
    output(Command::new("ip").args(["-n", pair.peer.name(), "neigh", "show", address]))
}

#[test]
fn neighbours_that_remember_a_vip_elsewhere_learn_where_it_is() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let vips = ["10.9.0.100", "fd09::100"];
        let elsewhere = "02:00:00:00:09:99";
        for vip in vips {
            let stale = ["neigh", "replace", vip, "lladdr", elsewhere, "nud", "stale"];
            pair.peer.ip(&[&stale[..], &["dev", "peer0"]].concat())?;
        }
        reconcile(&network::open()?, "here0", &vips).await?;
        let mut announcer = Announcer::default();
        announcer.announce("here0", &set(&vips));
        let told = async {
            for vip in vips {
                while !believed(pair, vip)?.contains(&mac(HERE)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        };
        timeout(PROMPT, told).await.context("nobody told the peer")??;
        // Somebody else's from now on.
        announcer.withdraw(&set(&vips));
        for vip in vips {
            let moved = ["neigh", "replace", vip, "lladdr", elsewhere, "nud", "stale"];
            pair.peer.ip(&[&moved[..], &["dev", "peer0"]].concat())?;
        }
        let again = async {
            loop {
                for vip in vips {
                    let now = believed(pair, vip)?;
                    ensure!(now.contains(elsewhere), "announced after it was withdrawn: {now}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(Duration::from_secs(3), again).await {
            Err(_) => Ok(()),
            Ok(result) => result,
        }
    })
}

#[test]
fn addresses_of_the_operator_are_left_alone() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        let theirs = ["10.9.0.1", "fd09::1"];
        let changes = reconcile(&handle, "here0", &theirs).await?;
        ensure!(changes == Changes { foreign: set(&theirs), ..Changes::default() }, "{changes:?}");
        let changes = reconcile(&handle, "here0", &[]).await?;
        ensure!(changes == Changes::default(), "{changes:?}");
        let list = shown(pair, "here0")?;
        ensure!(list.contains("10.9.0.1/24") && list.contains("fd09::1/64"), "{list}");
        Ok(())
    })
}

#[test]
fn vip_addresses_move_with_the_configured_interface() -> Result<()> {
    Pair::create()?.block_on(async |pair| {
        let handle = network::open()?;
        reconcile(&handle, "here0", &["10.9.0.100", "fd09::100"]).await?;
        let changes = reconcile(&handle, "lo", &["10.9.0.100", "fd09::100"]).await?;
        ensure!(changes.added == changes.removed && changes.added.len() == 2, "{changes:?}");
        ensure!(!shown(pair, "here0")?.contains("100"));
        ensure!(shown(pair, "lo")?.contains("10.9.0.100/32"));
        Ok(())
    })
}

#[test]
fn an_ipv6_vip_is_usable_at_once_and_never_a_source() -> Result<()> {
    Pair::create()?.block_on(async |_| {
        for (key, value) in [("accept_dad", "1"), ("dad_transmits", "3")] {
            write_sysctl(&format!("net/ipv6/conf/here0/{key}"), value)?;
        }
        let handle = network::open()?;
        reconcile(&handle, "here0", &["fd09::100", "10.9.0.100"]).await?;
        TcpListener::bind("[fd09::100]:0").context("still in duplicate address detection")?;
        TcpListener::bind("10.9.0.100:0").context("bind to the IPv4 VIP")?;
        // By prefix length alone the kernel would prefer the VIP for its neighbours.
        for (server, source) in [("fd09::101", "fd09::1"), ("10.9.0.101", "10.9.0.1")] {
            let route = route_to(&handle, ip(server)).await?;
            ensure!(route.source == ip(source), "{route:?}");
        }
        Ok(())
    })
}
