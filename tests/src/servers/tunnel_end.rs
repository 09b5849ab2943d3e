//! The far end of `forward: ipip` and `gue`: takes packets out of the packets they travel in.
//!
//! By the kernel's own tunnels where it has them; otherwise by sockets, so that the outer
//! headers are judged by the kernel's own IP and UDP all the same: raw sockets of protocols 4
//! and 41, or a UDP socket, and a TUN device for what was inside.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::{Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_common::forward::{Forward, GUE_PORT, PROTOCOL_IPV4, PROTOCOL_IPV6};

use crate::{
    bed::Family,
    namespace::{Namespace, write_sysctl},
    report::note,
};

/// The device that packets come out of.
const DEVICE: &str = "tunnel0";
/// `IFF_TUN | IFF_NO_PI`.
const TUN_WITHOUT_HEADER: libc::c_short = 0x1001;
/// How long a thread goes on after it was told to end.
const GRACE: Duration = Duration::from_millis(20);
/// `setsockopt(IPPROTO_UDP)`: take datagrams of IPv6 without a checksum.
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// A running end. Dropping it ends it.
#[derive(Debug)]
pub struct TunnelEnd {
    stopping: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
    by_kernel: bool,
}

impl TunnelEnd {
    /// Takes packets in, at an address of that family, until it is dropped.
    ///
    /// # Errors
    /// When a socket, a device or a thread can not be made.
    pub fn start(namespace: &Namespace, forward: Forward, outer: Family) -> Result<Self> {
        let mut end = Self {
            stopping: Arc::default(),
            packets: Arc::default(),
            threads: Vec::new(),
            by_kernel: false,
        };
        namespace.run(|| write_sysctl("net/ipv4/conf/all/rp_filter", "0"))?;
        if kernel_tunnel(namespace, forward, outer).is_ok() {
            end.by_kernel = true;
            return Ok(end);
        }
        let device = Arc::new(namespace.run(|| Ok(open_tun()?))?);
        namespace.ip(&["link", "set", DEVICE, "up"])?;
        namespace.run(|| write_sysctl(&format!("net/ipv4/conf/{DEVICE}/rp_filter"), "0"))?;
        let protocols = if forward == Forward::Gue {
            vec![None]
        } else {
            vec![Some(PROTOCOL_IPV4), Some(PROTOCOL_IPV6)]
        };
        for protocol in protocols {
            let socket = namespace.run(|| match protocol {
                Some(protocol) => Ok(open_raw(outer, protocol)?),
                None => open_gue(),
            })?;
            // A raw socket of IPv4 hands out the outer header too.
            let skip = if protocol.is_some() && outer == Family::V4 { 20 } else { 0 };
            end.relay(namespace, socket, skip, Arc::clone(&device))?;
        }
        Ok(end)
    }

    /// Whether the kernel does it.
    #[must_use]
    pub const fn is_by_kernel(&self) -> bool {
        self.by_kernel
    }

    /// Packets taken out so far; 0 if the kernel does it.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    fn relay(
        &mut self,
        namespace: &Namespace,
        socket: UdpSocket,
        skip: usize,
        mut device: Arc<File>,
    ) -> Result<()> {
        let (stopping, packets) = (Arc::clone(&self.stopping), Arc::clone(&self.packets));
        let thread = namespace.spawn("tunnel-end", move || {
            socket.set_read_timeout(Some(GRACE))?;
            let mut buffer = vec![0; 64 * 1024];
            while !stopping.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let inside = buffer.get(skip..length).context("a whole outer header")?;
                device.write_all(inside).context("hand a packet in")?;
                packets.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                note(format!("a tunnel's end failed: {error:#}"));
            }
        }
    }
}

/// The set-up that docs/forwarding.md describes.
fn kernel_tunnel(namespace: &Namespace, forward: Forward, outer: Family) -> Result<()> {
    if forward == Forward::Gue {
        let family: &[&str] = if outer == Family::V6 { &["-6"] } else { &[] };
        let port = GUE_PORT.to_string();
        namespace.ip(&[&["fou", "add", "port", &port, "gue"], family].concat())?;
    }
    let kinds: &[(&str, &str)] = match outer {
        Family::V4 => &[("ipip", "tunnel4"), ("sit", "tunnel6")],
        Family::V6 => &[("ip6tnl", "tunnel46")],
    };
    for (kind, name) in kinds {
        let any: &[&str] = if outer == Family::V6 { &["mode", "any"] } else { &[] };
        let add = ["link", "add", "name", name, "type", kind];
        namespace.ip(&[add.as_slice(), any, &["remote", "any"]].concat())?;
        namespace.ip(&["link", "set", name, "up"])?;
        namespace.run(|| write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0"))?;
    }
    Ok(())
}

fn open_gue() -> Result<UdpSocket> {
    const ON_BYTES: libc::socklen_t = 4;
    const { assert!(size_of::<libc::c_int>() == 4) };
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, GUE_PORT)).context("listen for GUE")?;
    let on: libc::c_int = 1;
    // SAFETY: pointer and length describe an integer that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            UDP_NO_CHECK6_RX,
            (&raw const on).cast(),
            ON_BYTES,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("take datagrams without a checksum");
    }
    Ok(socket)
}

/// A raw socket, as a type that can receive and has timeouts.
fn open_raw(outer: Family, protocol: u8) -> io::Result<UdpSocket> {
    let family = if outer == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes numbers alone.
    let descriptor =
        unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// A TUN device of this thread's namespace, without headers of its own.
fn open_tun() -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zero is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = TUN_WITHOUT_HEADER;
    // SAFETY: the request is the struct that TUNSETIFF takes, and outlives the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}
