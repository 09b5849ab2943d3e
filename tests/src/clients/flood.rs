//! A flood of SYNs from addresses that nobody has, as fast as one thread can send.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    namespace::Namespace,
    packet::{Mac, Packet, flag},
};

/// Frames that go round; each is a connection of its own.
const FRAMES: usize = 65_536;
/// Frames in one system call.
const BATCH: usize = 64;
/// No flood lasts longer, whatever becomes of the test.
const LONGEST: Duration = Duration::from_secs(60);

/// A running flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts in a namespace, out of a device, to this MAC address.
    ///
    /// # Errors
    /// When the device is not there or the thread can not be started.
    pub fn start(
        namespace: &Namespace,
        device: &'static str,
        hop: Mac,
        target: SocketAddr,
    ) -> Result<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread =
            namespace.spawn("flood", move || run(device, hop, target, &stopped, &count))?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// SYNs sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; how many SYNs were sent.
    ///
    /// # Errors
    /// What ended it before.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn run(
    device: &str,
    hop: Mac,
    target: SocketAddr,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let socket = raw_socket(device).with_context(|| format!("open a raw socket on {device}"))?;
    let mut frames: Vec<Vec<u8>> = (0..FRAMES).map(|index| frame(index, hop, target)).collect();
    let begun = Instant::now();
    for batch in (0..FRAMES / BATCH).cycle() {
        if stop.load(Ordering::Relaxed) || begun.elapsed() > LONGEST {
            return Ok(());
        }
        let batch = &mut frames[batch * BATCH..][..BATCH];
        sent.fetch_add(send(&socket, batch)?, Ordering::Relaxed);
    }
    Ok(())
}

/// A SYN from an address of a range for benchmarks (RFC 2544, RFC 5180).
fn frame(index: usize, hop: Mac, target: SocketAddr) -> Vec<u8> {
    let bits = u32::try_from(index).unwrap_or_default();
    let address = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 | bits)),
        SocketAddr::V6(_) => {
            IpAddr::V6(Ipv6Addr::from_bits(0x2001_0002_u128 << 96 | u128::from(bits)))
        }
    };
    let port = 1024 + u16::try_from(index % 60_000).unwrap_or_default();
    Packet::tcp(SocketAddr::new(address, port), target)
        .flags(flag::SYN)
        .sequence(bits.wrapping_mul(0x9e37_79b9), 0)
        .tcp_options(&[2, 4, 5, 0xb4])
        .link([2, 0, 0, 0, 9, 9], hop)
        .bytes()
}

fn raw_socket(device: &str) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: plain system calls; the address is a whole zeroed struct with its fields set.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing is received.
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_ifindex = i32::try_from(index).unwrap_or_default();
        let length = u32::try_from(mem::size_of_val(&address)).unwrap_or_default();
        if libc::bind(fd, ptr::from_ref(&address).cast(), length) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

/// Sends frames; how many the device took.
fn send(socket: &OwnedFd, frames: &mut [Vec<u8>]) -> io::Result<u64> {
    let mut parts: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zero is a valid header.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = u32::try_from(messages.len()).unwrap_or_default();
    // SAFETY: the headers point to live buffers of their lengths.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    if sent >= 0 {
        return Ok(sent.unsigned_abs().into());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
        error => Err(error),
    }
}
