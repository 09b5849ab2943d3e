//! Lines of the access log on their way out of a worker: gathered, so that a line costs a
//! request no more than its text.

use lb_common::event::FlowEnd;

/// Bytes of lines that are gathered.
const FULL: usize = 32 * 1024;

/// Who brings lines to where they are kept. It must not block.
pub trait LineSink: Send + Sync + std::fmt::Debug {
    /// Takes whole lines, each with its newline.
    fn write(&self, lines: String, count: u64);

    /// Takes a flow of layer 4 that is over.
    fn flow(&self, end: FlowEnd);
}

/// Lines of one worker that have not gone yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: String,
    count: u64,
}

impl Lines {
    /// Adds the line that `write` appends.
    pub(super) fn add(&mut self, sink: &dyn LineSink, write: impl FnOnce(&mut String)) {
        if self.text.capacity() == 0 {
            self.text.reserve(FULL + FULL / 8);
        }
        write(&mut self.text);
        self.count += 1;
        if self.text.len() >= FULL {
            self.flush(sink);
        }
    }

    /// Hands over what there is.
    pub(super) fn flush(&mut self, sink: &dyn LineSink) {
        if self.count > 0 {
            sink.write(std::mem::take(&mut self.text), std::mem::take(&mut self.count));
        }
    }
}
