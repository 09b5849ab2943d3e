//! Sending segments, at a bounded rate: to a neighbour on an interface, or by the kernel's route.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use super::segment::Segment;
use crate::datapath::error::{DatapathError, HostError};

/// Segments a second at most: ten thousand connections, both ends, in a fifth of one.
const RATE: u32 = 100_000;
/// Segments sent without a look at the clock.
const BURST: u32 = 64;

/// Sockets in the network namespace of the agent. Nothing waits for room: what there is no room
/// for is lost, as it would be on the way.
pub(super) struct Wire {
    frames: OwnedFd,
    routed4: OwnedFd,
    routed6: OwnedFd,
    started: Instant,
    sent: u32,
}

impl Wire {
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub(super) fn open() -> Result<Self, DatapathError> {
        let open = |family, protocol| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(family, SockType::Raw, flags, protocol).map_err(|error| HostError::Refused {
                action: "opening a raw socket (CAP_NET_RAW)",
                source: io::Error::from(error),
            })
        };
        Ok(Self {
            frames: open(AddressFamily::Packet, None)?,
            routed4: open(AddressFamily::Inet, Some(SockProtocol::Raw))?,
            routed6: open(AddressFamily::Inet6, Some(SockProtocol::Raw))?,
            started: Instant::now(),
            sent: 0,
        })
    }

    /// Sends a whole frame out of an interface; whether the kernel took it.
    #[expect(clippy::cast_possible_truncation, reason = "a small number, and a small size")]
    pub(super) fn send_frame(&mut self, frame: &[u8], ifindex: u32) -> bool {
        self.pace();
        let Some(interface) = i32::try_from(ifindex).ok() else { return false };
        // SAFETY: all zero is a valid value of that plain struct.
        let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        place.sll_family = libc::AF_PACKET.cast_unsigned() as u16;
        place.sll_ifindex = interface;
        if let Some(kind) = frame.get(12..14).and_then(|bytes| bytes.first_chunk()) {
            place.sll_protocol = u16::from_ne_bytes(*kind);
        }
        // SAFETY: frame and address are valid for their lengths during the call.
        let sent = unsafe {
            libc::sendto(
                self.frames.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const place).cast(),
                size_of_val(&place) as libc::socklen_t,
            )
        };
        sent >= 0
    }

    /// Sends a segment to wherever the kernel's routes lead; whether the kernel took it.
    pub(super) fn send_routed(&mut self, segment: &Segment) -> bool {
        self.pace();
        let destination = segment.destination();
        let socket = match destination {
            IpAddr::V4(_) => &self.routed4,
            IpAddr::V6(_) => &self.routed6,
        };
        let place = SockaddrStorage::from(std::net::SocketAddr::new(destination, 0));
        sendto(socket.as_raw_fd(), &segment.packet(), &place, MsgFlags::empty()).is_ok()
    }

    /// Waits if that is too many for the time.
    fn pace(&mut self) {
        self.sent += 1;
        if !self.sent.is_multiple_of(BURST) {
            return;
        }
        let due = Duration::from_secs(1) * self.sent / RATE;
        thread::sleep(due.saturating_sub(self.started.elapsed()));
        if self.started.elapsed() > Duration::from_secs(1) {
            // What was not used is not kept for later.
            (self.started, self.sent) = (Instant::now(), 0);
        }
    }
}
