//! The UDP service of an embedded server.

use std::{io, net::UdpSocket, sync::atomic::Ordering, time::Duration};

use super::{Shared, UNANSWERED};

/// How long the service goes on after its server was told to end.
const GRACE: Duration = Duration::from_millis(20);

/// [`super::port::UDP`].
pub(super) fn answer(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = vec![0; 64 * 1024];
    if socket.set_read_timeout(Some(GRACE)).is_err() {
        return;
    }
    while !shared.stopping.load(Ordering::Relaxed) {
        // Timeouts and ICMP errors of earlier answers alike: look at the flag, go on.
        let _ = answer_one(shared, socket, &mut buffer);
    }
}

fn answer_one(shared: &Shared, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    let (length, from) = socket.recv_from(buffer)?;
    let datagram = buffer.get(..length).unwrap_or_default();
    if datagram.starts_with(UNANSWERED) {
        return Ok(());
    }
    let answer = [format!("{} ", shared.name).as_bytes(), datagram].concat();
    // First, so that whoever has the answer finds it counted.
    shared.datagrams.fetch_add(1, Ordering::Relaxed);
    socket.send_to(&answer, from)?;
    Ok(())
}
