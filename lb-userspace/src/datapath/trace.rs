//! The traced data plane: the object `traced`, which takes the place of the program on every
//! interface while somebody looks, through the same pinned links and over the same maps, and
//! tells the packets that are wanted.
//!
//! If the agent dies meanwhile it stays in place like any program of ours, with its stages
//! pinned, and stops looking when its time is over; the next agent replaces it.

use std::io;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, RingBuf},
};
use lb_common::{
    abi::{PROGRAM, map},
    trace::{Filter, RecordHead},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    canned,
    error::{DatapathError, InterfaceError, MapAccessError, PinsError, ProgramFault},
    loader::{self, DataPlane},
    object::TRACED_OBJECT,
    pins::Pins,
    programs::Programs,
    stages,
};
use crate::model::snapshot::AttachMode;

const FILTER: &str = "TRACE_FILTER";
const RECORDS: &str = "TRACE_RECORDS";

/// The traced data plane, loaded; attached to nothing yet.
#[derive(Debug)]
pub struct Traced {
    object: Ebpf,
}

/// What the traced data plane tells.
pub struct Records {
    buffer: AsyncFd<RingBuf<MapData>>,
}

/// A packet, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What became of it.
    pub head: RecordHead,
    /// Its first bytes as it came.
    pub bytes: Vec<u8>,
}

impl Traced {
    /// Loads it over the maps of a data plane, and tries it. Takes as long as the verifier does.
    ///
    /// # Errors
    /// If a map is not pinned, memory is short, or the kernel refuses the program: reading
    /// packets as this does came with Linux 5.18.
    pub fn load(pins: &Pins, filter: &Filter) -> Result<Self, DatapathError> {
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            let path = pins.map(name);
            if !path.exists() {
                return Err(PinsError::Missing { path }.into());
            }
            loader.map_pin_path(name, path);
        }
        let mut object = loader.load(TRACED_OBJECT).map_err(loader::load_failed)?;
        stages::load(&mut object)?;
        let failed = |source| MapAccessError::Access { action: "write", map: FILTER, source };
        let map = object.map_mut(FILTER).ok_or(ProgramFault::Lacks(FILTER))?;
        let mut map = Array::<_, Filter>::try_from(map).map_err(failed)?;
        map.set(0, filter, 0).map_err(failed)?;
        canned::try_canned(stages::program(&mut object, PROGRAM)?)?;
        Ok(Self { object })
    }

    fn records(&mut self) -> Result<Records, DatapathError> {
        let map = self.object.take_map(RECORDS).ok_or(ProgramFault::Lacks(RECORDS))?;
        let buffer = RingBuf::try_from(map).map_err(|source| MapAccessError::Access {
            action: "open",
            map: RECORDS,
            source,
        })?;
        // SAFETY: the ring buffer owns its descriptor, which is open, and neither closes nor
        // replaces it before it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
        let buffer = registered.map_err(|error| MapAccessError::Call {
            action: "wait for",
            map: RECORDS,
            source: error.into(),
        })?;
        Ok(Records { buffer })
    }
}

impl DataPlane {
    /// Lets the traced data plane take over on every interface, between two packets of each.
    ///
    /// # Errors
    /// If an interface refuses; then the other program is everywhere again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn trace(&mut self, mut traced: Traced) -> Result<Records, DatapathError> {
        let records = traced.records()?;
        self.traced = Some(Programs::Loaded(traced.object));
        match self.replace_everywhere() {
            Ok(()) => Ok(records),
            Err(error) => {
                // The first failure is the one to report.
                drop(self.end_trace());
                Err(error)
            }
        }
    }

    /// Lets the data plane take over again. Does nothing if it has.
    ///
    /// # Errors
    /// If an interface refuses; the others are done all the same.
    pub fn end_trace(&mut self) -> Result<(), DatapathError> {
        // Where it is in place still, its pinned stages keep it whole.
        match self.traced.take() {
            Some(_traced) => self.replace_everywhere(),
            None => Ok(()),
        }
    }

    fn replace_everywhere(&mut self) -> Result<(), DatapathError> {
        let mut result = Ok(());
        for interface in self.pins().linked_interfaces()? {
            match self.attach(&interface, AttachMode::Auto) {
                // One that is gone has no packets.
                Ok(_) | Err(DatapathError::Interface(InterfaceError::Missing { .. })) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    /// The next record, as [`Record::split`] reads it.
    ///
    /// # Errors
    /// If it can not be waited for.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.buffer.readable_mut().await?;
            if let Some(record) = ready.get_inner_mut().next() {
                return Ok(record.to_vec());
            }
            ready.clear_ready();
        }
    }
}

impl Record {
    /// The first record of some bytes, and how many it takes; none if it is not there in full.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_at_checked(size_of::<RecordHead>())?;
        // SAFETY: the slice has the length of a `RecordHead`, of which every bit pattern is
        // valid, and `read_unaligned` asks for no alignment.
        let head = unsafe { head.as_ptr().cast::<RecordHead>().read_unaligned() };
        let bytes = rest.get(..head.captured as usize)?.to_vec();
        let length = size_of::<RecordHead>() + bytes.len();
        Some((Self { head, bytes }, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        const HEAD: usize = size_of::<RecordHead>();
        let mut bytes = vec![0; HEAD];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1500_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&3_u32.to_ne_bytes());
        bytes.extend([1, 2, 3, 9, 9]);
        let (record, length) = Record::split(&bytes).expect("whole");
        assert_eq!((record.head.time_ns, record.head.bytes), (7, 1500));
        assert_eq!((record.bytes.as_slice(), length), ([1, 2, 3].as_slice(), HEAD + 3));
        assert_eq!(Record::split(&bytes[..HEAD + 2]), None);
        assert_eq!(Record::split(&bytes[..HEAD - 1]), None);
    }
}
