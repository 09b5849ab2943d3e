//! Datagrams by the dozen: recvmmsg(2) and sendmmsg(2).

use std::{
    io,
    mem::{size_of, zeroed},
    net::SocketAddr,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use libc::{c_uint, iovec, mmsghdr, sockaddr_storage, socklen_t};
use socket2::SockAddr;

/// Most datagrams at once.
pub(super) const BATCH: usize = 32;

/// Room for one: more than the payload of any datagram.
const ROOM: usize = 1 << 16;

/// Places for datagrams, each with the address it came from, or is to go to.
///
/// Two MiB of address space, of which memory is what datagrams have ever filled.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Box<[u8]>,
    lengths: [usize; BATCH],
    addresses: [Option<SocketAddr>; BATCH],
}

impl Batch {
    pub(super) fn new() -> Self {
        let bytes = vec![0; BATCH * ROOM].into_boxed_slice();
        Self { bytes, lengths: [0; BATCH], addresses: [None; BATCH] }
    }

    /// Whom the datagram at a place came from, or goes to.
    pub(super) fn address(&self, place: usize) -> Option<SocketAddr> {
        self.addresses.get(place).copied().flatten()
    }

    /// Says whom the datagrams at some places go to.
    pub(super) fn address_to(&mut self, places: Range<usize>, to: SocketAddr) {
        self.addresses[places].fill(Some(to));
    }

    /// Bytes of the datagrams at some places, all together.
    pub(super) fn length(&self, places: Range<usize>) -> u64 {
        self.lengths[places].iter().map(|length| *length as u64).sum()
    }

    /// Receives what is there into the places from `first` on; how many datagrams.
    ///
    /// # Errors
    /// As recvmmsg(2): `WouldBlock` if there is none, `ConnectionRefused` if a connected
    /// socket's peer does not listen.
    pub(super) fn receive(&mut self, socket: impl AsFd, first: usize) -> io::Result<usize> {
        // SAFETY: plain data, for which all zeros is a value.
        let mut headers: [mmsghdr; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut vectors: [iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut names: [sockaddr_storage; BATCH] = unsafe { zeroed() };
        let mut count: c_uint = 0;
        let rooms = self.bytes.chunks_exact_mut(ROOM).skip(first);
        for (((header, vector), name), room) in
            headers.iter_mut().zip(&mut vectors).zip(&mut names).zip(rooms)
        {
            *vector = iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = NAME_LENGTH;
            count += 1;
        }
        let descriptor = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` headers point to vectors, names and rooms that are there
        // until the call has returned, and are as long as they say.
        let received = unsafe {
            libc::recvmmsg(
                descriptor,
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let places = self.lengths.iter_mut().zip(&mut self.addresses).skip(first);
        for ((header, name), (length, address)) in
            headers.iter().zip(names).zip(places).take(received)
        {
            *length = (header.msg_len as usize).min(ROOM);
            // SAFETY: the kernel has written an address of so many bytes.
            let name = unsafe { SockAddr::new(storage(name), header.msg_hdr.msg_namelen) };
            *address = name.as_socket();
        }
        Ok(received)
    }

    /// Sends the datagrams at some places, each to its address, or where a socket is connected
    /// to if `is_connected`; how many were sent.
    ///
    /// # Errors
    /// As sendmmsg(2), if none was sent.
    pub(super) fn send(
        &self,
        socket: impl AsFd,
        places: Range<usize>,
        is_connected: bool,
    ) -> io::Result<usize> {
        let names: [Option<SockAddr>; BATCH] = std::array::from_fn(|place| {
            let wanted = !is_connected && places.contains(&place);
            self.addresses[place].filter(|_| wanted).map(SockAddr::from)
        });
        // SAFETY: plain data, for which all zeros is a value.
        let mut headers: [mmsghdr; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut vectors: [iovec; BATCH] = unsafe { zeroed() };
        let datagrams = self.bytes.chunks_exact(ROOM).zip(&self.lengths).zip(&names);
        let datagrams = datagrams.skip(places.start).take(places.len());
        let mut count: c_uint = 0;
        for ((header, vector), ((room, length), name)) in
            headers.iter_mut().zip(&mut vectors).zip(datagrams)
        {
            // The kernel only reads.
            *vector = iovec { iov_base: room.as_ptr().cast_mut().cast(), iov_len: *length };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            if let Some(name) = name {
                header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = name.len();
            }
            count += 1;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let descriptor = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` headers point to vectors, names and rooms that are there
        // until the call has returned, and are as long as they say.
        let sent = unsafe { libc::sendmmsg(descriptor, headers.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// That of [`sockaddr_storage`].
const NAME_LENGTH: socklen_t = 128;
const _: () = assert!(size_of::<sockaddr_storage>() == NAME_LENGTH as usize);

/// The same bytes as socket2 wants them.
fn storage(name: sockaddr_storage) -> socket2::SockAddrStorage {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: both are storage for any address: the type is that of sockaddr_storage.
    *unsafe { storage.view_as::<sockaddr_storage>() } = name;
    storage
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn datagrams_come_and_go_in_batches_of_any_length() {
        for host in ["127.0.0.1", "::1"] {
            let [one, other] = [(); 2].map(|()| UdpSocket::bind((host, 0)).unwrap());
            let (from, to) = (one.local_addr().unwrap(), other.local_addr().unwrap());
            let lengths = [0, 1, 1472, 65_507, 9];
            for length in lengths {
                one.send_to(&vec![b'a'; length], to).unwrap();
            }
            let mut batch = Batch::new();
            // Behind three that wait there.
            assert_eq!(batch.receive(&other, 3).unwrap(), lengths.len());
            assert_eq!(batch.length(3..8), lengths.iter().sum::<usize>() as u64);
            assert!((3..8).all(|place| batch.address(place) == Some(from)));
            let error = batch.receive(&other, 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            // Back to where they came from; then over a socket that is connected.
            assert_eq!(batch.send(&other, 3..8, false).unwrap(), lengths.len());
            other.connect(from).unwrap();
            assert_eq!(batch.send(&other, 4..5, true).unwrap(), 1);
            let mut buffer = vec![0; ROOM];
            for length in [0, 1, 1472, 65_507, 9, 1] {
                assert_eq!(one.recv_from(&mut buffer).unwrap(), (length, to));
            }
        }
    }

    #[test]
    fn a_full_batch_leaves_the_rest_and_a_peer_that_is_gone_is_told_of() {
        let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..BATCH + 2 {
            one.send_to(b"x", other.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&other, 0).unwrap(), BATCH);
        assert_eq!(batch.receive(&other, BATCH - 1).unwrap(), 1);
        one.connect(other.local_addr().unwrap()).unwrap();
        drop(other);
        assert_eq!(batch.send(&one, 0..1, true).unwrap(), 1);
        let error = batch.receive(&one, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
