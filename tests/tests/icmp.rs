//! ICMP through VIPs with the kernel's own stacks on both sides: path MTU discovery, closed ports,
//! packets that run out of hops, echo requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, FailureKind, UdpConversation},
    configuration::{Service, quoted},
    fleet::Fleet,
    namespace::{Namespace, output, write_sysctl},
    servers::{Embedded, port},
};

/// What passes the narrow link.
const NARROW: &str = "1300";
const BYTES: u64 = 4 << 20;

/// A machine behind one of the bed's, which becomes a router with a narrow link to it.
struct Behind {
    namespace: Namespace,
}

impl Behind {
    fn new(bed: &Bed, router: &Namespace) -> Result<Self> {
        let namespace = Namespace::create("behind")?;
        router.run(|| {
            write_sysctl("net/ipv4/ip_forward", "1")?;
            write_sysctl("net/ipv6/conf/all/forwarding", "1")
        })?;
        let create = ["link", "add", "behind", "type", "veth", "peer", "name", "eth0"];
        router.ip(&[create.as_slice(), &["netns", namespace.name()]].concat())?;
        for (end, device, last) in [(router, "behind", "1"), (&namespace, "eth0", "2")] {
            end.ip(&["addr", "add", &format!("10.93.0.{last}/24"), "dev", device])?;
            end.ip(&["addr", "add", &format!("fd93::{last}/64"), "dev", device, "nodad"])?;
            output(end.command("ethtool").args(["-K", device, "tx", "off"]))?;
            end.ip(&["link", "set", device, "up"])?;
        }
        namespace.ip(&["route", "add", "default", "via", "10.93.0.1"])?;
        namespace.ip(&["-6", "route", "add", "default", "via", "fd93::1"])?;
        // Packets out of the router to this machine are too long beyond this.
        for (family, host) in [("-4", "10.93.0.2"), ("-6", "fd93::2")] {
            router.ip(&[family, "route", "add", host, "dev", "behind", "mtu", "lock", NARROW])?;
        }
        // The balancer's own packets, checks among them, know the way too.
        let is_client = router.name() == bed.client.name();
        let via = |family| {
            if is_client { Bed::client_address(family) } else { Bed::server_address(0, family) }
        };
        for (family, flag, net) in
            [(Family::V4, "-4", "10.93.0.0/24"), (Family::V6, "-6", "fd93::/64")]
        {
            bed.balancer.ip(&[flag, "route", "add", net, "via", &via(family).to_string()])?;
        }
        Ok(Self { namespace })
    }

    const fn address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 93, 0, 2)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd93, 0, 0, 0, 0, 0, 0, 2)),
        }
    }
}

/// The path MTU that a machine has learnt towards an address.
fn learnt_mtu(namespace: &Namespace, towards: IpAddr) -> Result<String> {
    output(namespace.command("ip").args(["route", "get", &towards.to_string()]))
}

#[test]
fn a_server_learns_of_a_narrow_link_to_a_client() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let _agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let behind = Behind::new(&bed, &bed.client)?;
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::SOURCE);
        let transfer = behind.namespace.run(|| Ok(clients::download(vip, BYTES)?))?;
        ensure!(transfer.fingerprint.bytes == BYTES, "{}: cut off", family.name());
        let learnt = learnt_mtu(bed.server(0)?, Bed::snat_address(0, family))?;
        ensure!(learnt.contains(&format!("mtu {NARROW}")), "{}: {learnt}", family.name());
    }
    Ok(())
}

#[test]
fn a_client_learns_of_a_narrow_link_to_a_server() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    // Only servers that need the route have it: this one is behind a router.
    let behind = Behind::new(&bed, bed.server(0)?)?;
    let _server = Embedded::start(&behind.namespace, "behind")?;
    let mut services = Service::all_embedded(&bed);
    for service in &mut services {
        let family = if service.vip.is_ipv4() { Family::V4 } else { Family::V6 };
        for (_, address) in &mut service.servers {
            let port = address.trim_matches('"').parse::<SocketAddr>()?.port();
            *address = quoted(SocketAddr::new(Behind::address(family), port));
        }
    }
    let _agent = Agent::launch(&bed, services)?;
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::DIGEST);
        let transfer = bed.client.run(|| Ok(clients::upload(vip, BYTES)?))?;
        ensure!(transfer.fingerprint.bytes == BYTES, "{}: cut off", family.name());
        let learnt = learnt_mtu(&bed.client, vip.ip())?;
        ensure!(learnt.contains(&format!("mtu {NARROW}")), "{}: {learnt}", family.name());
        ttl_runs_out_at_the_router(&bed, family)?;
    }
    Ok(())
}

/// The client hears of a datagram that the router before the server had to drop, from the VIP.
fn ttl_runs_out_at_the_router(bed: &Bed, family: Family) -> Result<()> {
    let vip = Bed::vip(family, port::UDP);
    let outcome = bed.client.run(|| {
        let conversation = UdpConversation::open(vip)?;
        // One hop here, one at the router.
        set_hops(&conversation, family, 2)?;
        conversation.send_unanswered(0)?;
        Ok(conversation.hear())
    })?;
    let failure = outcome.err().context("an answer in place of an error")?;
    ensure!(failure.detail.contains("No route to host"), "{}: {failure}", family.name());
    Ok(())
}

/// Sets the hops that a socket's packets may take, and has errors that are not final reported.
fn set_hops(conversation: &UdpConversation, family: Family, hops: i32) -> Result<()> {
    let socket = conversation.socket();
    match family {
        Family::V4 => {
            setsockopt(socket, sockopt::Ipv4Ttl, &hops)?;
            setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        }
        Family::V6 => {
            setsockopt(socket, sockopt::Ipv6Ttl, &hops)?;
            setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        }
    }
    Ok(())
}

#[test]
fn a_client_hears_that_the_port_of_its_server_is_closed() -> Result<()> {
    const CLOSED: u16 = 7999;
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let services = Family::BOTH.map(|family| {
        let service = Service::embedded(&bed, ("closed", CLOSED, CLOSED), "udp", family);
        Service { check: String::new(), ..service }
    });
    let _agent = Agent::launch(&bed, services.into())?;
    for family in Family::BOTH {
        let vip = Bed::vip(family, CLOSED);
        let outcome = bed.client.run(|| {
            let conversation = UdpConversation::open(vip)?;
            conversation.send_unanswered(0)?;
            Ok(conversation.hear())
        })?;
        let kind = outcome.err().map(|failure| failure.kind);
        ensure!(kind == Some(FailureKind::Refused), "{}: {kind:?}", family.name());
    }
    Ok(())
}

#[test]
fn vips_answer_echo_requests_unless_that_is_off() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    bed.client.run(clients::allow_echo)?;
    let answered = |family, number, padding| {
        let vip = Bed::vip(family, port::UDP).ip();
        bed.client.run(|| clients::echo(vip, number, padding))
    };
    for family in Family::BOTH {
        for (number, padding) in [(1, 0), (2, 1), (3, 56), (4, 1400)] {
            let answered = answered(family, number, padding)?;
            ensure!(answered, "{}: {padding} bytes were not answered", family.name());
        }
    }
    // No interface has a VIP's address, so nobody else answers.
    let mut silent = agent.configuration(Service::all_embedded(&bed));
    silent.datapath_options.push("answer_echo: false".into());
    agent.configure(&silent)?;
    agent.reload()?;
    for family in Family::BOTH {
        ensure!(!answered(family, 5, 56)?, "{}: it was answered", family.name());
    }
    Ok(())
}
