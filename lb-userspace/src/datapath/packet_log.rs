//! Reading the records of a data plane that was built to log every packet (cargo feature
//! `dataplane-log`; development only, it costs 65 to 90 ns a packet).

use std::{thread, time::Duration};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::error::ProgramFault;

const PAUSE: Duration = Duration::from_millis(50);

/// Hands records on to the agent's own log, at debug level.
#[derive(Debug)]
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: "dataplane", "{}", record.args());
    }

    fn flush(&self) {}
}

/// Reads records on a thread of its own until the process ends.
///
/// # Errors
/// If the object has no records, or the thread can not be started.
pub(super) fn start(object: &mut Ebpf) -> Result<(), ProgramFault> {
    let mut logger = EbpfLogger::init_with_logger(object, ToTracing)
        .map_err(|error| ProgramFault::PacketLog(Box::new(error)))?;
    let read = move || loop {
        logger.flush();
        thread::sleep(PAUSE);
    };
    thread::Builder::new()
        .name("packet-log".into())
        .spawn(read)
        .map(drop)
        .map_err(|error| ProgramFault::PacketLog(Box::new(error)))
}
