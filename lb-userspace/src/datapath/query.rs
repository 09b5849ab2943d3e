//! What XDP program an interface has, asked over rtnetlink (`IFLA_XDP`, rtnetlink(7)).
//! aya does not offer it, and the loader is synchronous, so `rtnetlink` does not fit.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An attached program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// The program's id.
    pub(crate) program: u32,
    /// It runs in the network stack, not in the driver.
    pub(crate) generic: bool,
}

/// The program attached to an interface of the calling thread's namespace; none if there
/// is none.
///
/// # Errors
/// If the kernel does not answer or there is no such interface.
pub(crate) fn attached(ifindex: u32) -> io::Result<Option<Attached>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(question));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            Ok(link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => from_attributes(xdp),
                _ => None,
            }))
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not the answer to RTM_GETLINK")),
    }
}

/// The driver's program if there is one, else the generic one.
fn from_attributes(xdp: &[LinkXdp]) -> Option<Attached> {
    let generic_only = xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
    let native = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::DrvProgId(program) | LinkXdp::HwProgId(program) => Some(*program),
        _ => None,
    });
    let any = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(program) | LinkXdp::SkbProgId(program) if *program != 0 => Some(*program),
        _ => None,
    });
    match native {
        Some(program) => Some(Attached { program, generic: false }),
        None => any.map(|program| Attached { program, generic: generic_only }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attached_to_loopback() {
        let loopback = nix::net::if_::if_nametoindex("lo").expect("every machine has one");
        assert_eq!(attached(loopback).expect("anyone may ask"), None);
    }

    #[test]
    fn an_unknown_interface_is_an_error() {
        assert!(attached(0x7fff_0000).is_err());
    }

    #[test]
    fn the_mode_follows_from_the_attributes() {
        let generic = [
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::SkbProgId(7),
            LinkXdp::ProgId(7),
        ];
        assert_eq!(from_attributes(&generic), Some(Attached { program: 7, generic: true }));
        let native =
            [LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(8), LinkXdp::DrvProgId(8)];
        assert_eq!(from_attributes(&native), Some(Attached { program: 8, generic: false }));
        assert_eq!(from_attributes(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }
}
