//! From the proxy's workers to the access log in force.

use std::sync::Arc;

use lb_common::event::FlowEnd;
use tokio::sync::watch;

use crate::{access_log::writer::AccessLogger, proxy::log::LineSink};

/// Hands lines to the access log in force; lost without a word if there is none.
#[derive(Debug)]
pub struct LogLines(pub watch::Receiver<Option<Arc<AccessLogger>>>);

impl LineSink for LogLines {
    fn write(&self, lines: String, count: u64) {
        if let Some(logger) = self.0.borrow().as_deref() {
            logger.log_lines(lines, count);
        }
    }

    fn flow(&self, end: FlowEnd) {
        if let Some(logger) = self.0.borrow().as_deref() {
            logger.log(end);
        }
    }
}
