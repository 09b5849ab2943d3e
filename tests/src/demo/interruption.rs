//! Ctrl-C and SIGTERM end the demo in order: the step under way is the last, and dropping
//! what was built cleans up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody wants the demo to end. The default one watches no signal.
#[derive(Clone, Debug, Default)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// Takes the signals over. Call it before any other thread exists: threads inherit
    /// that they do not take them.
    ///
    /// # Errors
    /// When the kernel refuses, or the thread that waits can not be started.
    pub fn watch() -> Result<Self> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("block signals")?;
        let interruption = Self(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&interruption.0);
        let wait = move || {
            while signals.wait().is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait).context("start a thread")?;
        Ok(interruption)
    }

    /// Fails once a signal came.
    ///
    /// # Errors
    /// "interrupted".
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        while self.check().is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    }
}
