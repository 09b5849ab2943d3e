//! Finished flows as the data plane reports them: the `EVENTS` ring buffer
//! (`kernel/bpf/ringbuf.c`).

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use lb_common::{abi::map, event::FlowEnd};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    error::{DatapathError, MapAccessError},
    maps::Source,
    pins::Pins,
    tables::ServerAddresses,
};

/// Reads finished flows out of the ring buffer. There should be one reader only: two share
/// the records between them.
pub struct EventReader {
    buffer: AsyncFd<RingBuf<MapData>>,
    servers: ServerAddresses,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

impl EventReader {
    /// Opens the pinned ring buffer.
    ///
    /// # Errors
    /// If it is not pinned or may not be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let data = pins.open(map::EVENTS)?;
        let failed = |source| MapAccessError::Access { action: "open", map: map::EVENTS, source };
        let buffer = Map::from_map_data(data).and_then(RingBuf::try_from).map_err(failed)?;
        // SAFETY: the ring buffer owns its descriptor, which is open, and neither closes nor
        // replaces it before it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
        let buffer = registered.map_err(|error| MapAccessError::Call {
            action: "wait for",
            map: map::EVENTS,
            source: error.into(),
        })?;
        Ok(Self { buffer, servers: ServerAddresses::open(pins)? })
    }

    /// Hands every record to `ends`, until cancelled or nobody listens. While the channel
    /// is full the records wait in the ring buffer; when that is full the data plane counts
    /// those it could not write as drops of reason `event_lost`.
    ///
    /// # Cancel safety
    /// Dropping the future may lose one record.
    pub async fn run(mut self, ends: mpsc::Sender<FlowEnd>, cancel: CancellationToken) {
        let pump = async {
            loop {
                if let Err(error) = self.pump(&ends).await {
                    warn!(%error, "could not wait for finished flows, they are not logged any more");
                    return;
                }
                if ends.is_closed() {
                    return;
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = pump => {}
        }
    }

    /// Waits for records and hands on what is there.
    async fn pump(&mut self, ends: &mpsc::Sender<FlowEnd>) -> io::Result<()> {
        let mut ready = self.buffer.readable_mut().await?;
        // A copy, because the record's place in the buffer is free once it was looked at.
        while let Some(end) = ready.get_inner_mut().next().map(|record| parse(&record)) {
            match end {
                Some(end) => {
                    // A closed channel ends `run`.
                    let _closed = ends.send(self.servers.complete(end)).await;
                }
                None => warn!("a record of another length than a finished flow's was skipped"),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

fn parse(record: &[u8]) -> Option<FlowEnd> {
    if record.len() != size_of::<FlowEnd>() {
        return None;
    }
    // SAFETY: the slice has the length of a `FlowEnd`, of which every bit pattern is valid,
    // and `read_unaligned` asks for no alignment.
    Some(unsafe { record.as_ptr().cast::<FlowEnd>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let end = FlowEnd { created_ns: 7, protocol: 17, cause: 4, ..FlowEnd::default() };
        let mut bytes = [0_u8; 121];
        bytes[1..9].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[117] = 17;
        bytes[118] = 4;
        assert_eq!(parse(&bytes[1..]), Some(end));
        assert_eq!(parse(&bytes[2..]), None);
    }
}
