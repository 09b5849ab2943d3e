//! A link from the client to the first server, past the balancer: what everything else is
//! compared with. Its ends are prepared as those of the bed, so that the difference is
//! what stands in the middle, and not another setting of the network cards.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use testbed::{bed::Bed, namespace::output, stub::Stub};

/// The server's end.
pub(crate) const SERVER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 93, 0, 2));
const CLIENT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 93, 0, 1));
const DEVICE: &str = "direct";

/// Makes the link; it goes with the namespaces. The programs live as long as the result.
///
/// # Errors
/// When `ip`, `ethtool` or the kernel refuses a step.
pub(crate) fn connect(bed: &Bed) -> Result<[Stub; 2]> {
    let server = bed.server(0)?;
    bed.client.ip(&[
        "link",
        "add",
        DEVICE,
        "type",
        "veth",
        "peer",
        "name",
        DEVICE,
        "netns",
        server.name(),
    ])?;
    for (namespace, address) in [(bed.client.as_ref(), CLIENT_ADDRESS), (server, SERVER_ADDRESS)] {
        namespace.ip(&["addr", "add", &format!("{address}/30"), "dev", DEVICE])?;
        output(namespace.command("ethtool").args(["-K", DEVICE, "tx", "off"]))?;
        namespace.ip(&["link", "set", DEVICE, "up"])?;
    }
    Ok([Stub::attach(&bed.client, DEVICE)?, Stub::attach(server, DEVICE)?])
}
