//! Watches the frames of an HTTP/2 client (RFC 9113, 4.1), before h2 takes them, for work
//! that leads nowhere.
//!
//! h2 bounds what a frame may hold, how many CONTINUATION and small DATA frames there may
//! be, and resets that it makes itself because of a client's faults (CVE-2025-8671); hyper,
//! streams that are reset before they were taken up. Left to bound are resets of streams
//! that were (CVE-2023-44487) and frames that are answered or looked at for nothing, PING
//! and SETTINGS and PRIORITY floods (CVE-2019-9512, -9513, -9515). Both are counted over a
//! while and against what the connection does besides, so that a client with much to do may
//! do much: one that gives up less than half of its requests is not cut off, nor one that
//! sends a control frame for every few bytes of content.
//!
//! Besides, h2 waits for the end of a PUSH_PROMISE before it refuses it, and a client may not
//! send the beginning of one (RFC 9113, 8.4): h2 is shown a frame that it refuses at once.

use std::time::{Duration, Instant};

use crate::model::frontend::HttpLimits;

/// How long frames count.
const WHILE: Duration = Duration::from_secs(10);
/// Bytes of the preface.
const PREFACE: u32 = 24;
/// Bytes of a frame's header.
const HEADER: usize = 9;
/// Where in it the type is.
const TYPE: usize = 3;
/// Types and a flag (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// Bytes of content, either way, that make up for one control frame.
const BYTES_FOR_ONE: i64 = 32;

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Streams that the client resets.
    Resets,
    /// Frames that carry nothing of a request.
    ControlFrames,
}

impl Flood {
    /// In a word, for the log.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::ControlFrames => "control_frames",
        }
    }
}

/// Where in the stream of frames the next byte belongs, and what there was for a while.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes to come before the next header: of a payload, or of the preface.
    skip: u32,
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// HEADERS have come that CONTINUATION is to end.
    is_block_open: bool,
    since: Option<Instant>,
    requests: u32,
    resets: u32,
    control: u32,
    /// Bytes of content, less those of answers to control frames.
    content: i64,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            have: 0,
            is_block_open: false,
            since: None,
            requests: 0,
            resets: 0,
            control: 0,
            content: 0,
        }
    }

    /// Bytes have been written to the client.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.content = self.content.saturating_add_unsigned(bytes as u64);
    }

    /// Looks at what was just read. A PUSH_PROMISE becomes a CONTINUATION of nothing, a
    /// connection error of the same type, PROTOCOL_ERROR.
    ///
    /// # Errors
    /// What there is too much of; nothing more is to be read.
    pub(super) fn look(
        &mut self,
        mut bytes: &mut [u8],
        limits: &HttpLimits,
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            bytes = &mut bytes[skipped..];
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            let taken = bytes.len().min(HEADER - self.have);
            let (new, rest) = bytes.split_at_mut(taken);
            self.header[self.have..self.have + taken].copy_from_slice(new);
            if let Some(kind) = TYPE.checked_sub(self.have).and_then(|at| new.get_mut(at)) {
                // Within a block h2 takes nothing else than CONTINUATION.
                if *kind == PUSH_PROMISE && !self.is_block_open {
                    *kind = CONTINUATION;
                }
            }
            bytes = rest;
            self.have += taken;
            if self.have < HEADER {
                return Ok(());
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.header;
            self.skip = u32::from_be_bytes([0, a, b, c]);
            if matches!(kind, HEADERS | CONTINUATION) {
                self.is_block_open = flags & END_HEADERS == 0;
            }
            self.count(kind, &now, limits)?;
        }
    }

    fn count(
        &mut self,
        kind: u8,
        now: &impl Fn() -> Instant,
        limits: &HttpLimits,
    ) -> Result<(), Flood> {
        match kind {
            HEADERS => {
                self.requests = self.requests.saturating_add(1);
                return Ok(());
            }
            DATA if self.skip > 0 => {
                self.content = self.content.saturating_add(self.skip.into());
                return Ok(());
            }
            _ => {}
        }
        let now = now();
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > WHILE) {
            self.since = Some(now);
            (self.requests, self.resets, self.control, self.content) = (0, 0, 0, 0);
        }
        if kind == RST_STREAM {
            self.resets = self.resets.saturating_add(1);
            let others = self.requests.saturating_sub(self.resets);
            let most = limits.resets.saturating_add(others);
            return if self.resets > most { Err(Flood::Resets) } else { Ok(()) };
        }
        self.control = self.control.saturating_add(1);
        // What answers it is no content.
        self.content = self.content.saturating_sub(match kind {
            PING => 17,
            SETTINGS => 9,
            _ => 0,
        });
        let earned = u64::try_from(self.content / BYTES_FOR_ONE).unwrap_or(0);
        let most = u64::from(limits.control_frames).saturating_add(earned);
        if u64::from(self.control) > most { Err(Flood::ControlFrames) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HttpLimits = HttpLimits {
        header_bytes: 1,
        header_count: 1,
        uri_bytes: 1,
        body_bytes: 1,
        body_rate: 1,
        streams: 1,
        resets: 3,
        control_frames: 3,
    };

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + usize::from(length), 0xff);
        frame
    }

    fn times(count: usize, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        frames.iter().cycle().take(count * frames.len()).cloned().collect()
    }

    /// Frames and the result at the first that is too many, for every size of reads.
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: Result<(), (usize, Flood)>) {
        let start = Instant::now();
        for size in [1, 7, 1000] {
            let mut watch = Frames::new();
            watch.look(&mut [b'x'; 24], &LIMITS, || start).unwrap();
            let judge = |(number, frame): (usize, &Vec<u8>)| {
                let mut frame = frame.clone();
                let mut parts = frame.chunks_mut(size);
                let judged = parts.try_for_each(|part| watch.look(part, &LIMITS, || start));
                judged.map_err(|flood| (number, flood))
            };
            assert_eq!(frames.iter().enumerate().try_for_each(judge), expected, "by {size}");
        }
    }

    #[test]
    fn resets_are_held_against_requests() {
        let (request, reset) = (frame(1, 5), frame(3, 4));
        let all = times(10, &[request.clone(), reset.clone()]);
        check(&all, Err((7, Flood::Resets)));
        // Half of them.
        check(&times(50, &[request.clone(), request, reset]), Ok(()));
    }

    #[test]
    fn frames_that_carry_nothing_are_few() {
        for kind in [2, 4, 5, 6, 7, 8, 9, 0x10, 0xff] {
            check(&vec![frame(kind, 8); 10], Err((3, Flood::ControlFrames)));
        }
        check(&vec![frame(0, 0); 10], Err((3, Flood::ControlFrames)));
    }

    #[test]
    fn content_makes_up_for_them() {
        check(&times(50, &[frame(0, 100), frame(8, 4), frame(8, 4)]), Ok(()));
        let now = Instant::now();
        let mut watch = Frames::new();
        watch.look(&mut [b'x'; 24], &LIMITS, || now).unwrap();
        for _ in 0..100 {
            watch.wrote(100);
            watch.look(&mut frame(6, 8), &LIMITS, || now).unwrap();
        }
        // The answers to pings are no content.
        let mut watch = Frames::new();
        watch.look(&mut [b'x'; 24], &LIMITS, || now).unwrap();
        let mut pinged = 0;
        while watch.look(&mut frame(6, 8), &LIMITS, || now).is_ok() {
            watch.wrote(17);
            pinged += 1;
        }
        assert_eq!(pinged, 3);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let start = Instant::now();
        let mut watch = Frames::new();
        watch.look(&mut [b'x'; 24], &LIMITS, || start).unwrap();
        for second in 0..100 {
            let now = start + Duration::from_secs(4 * second);
            watch.look(&mut frame(6, 8), &LIMITS, || now).unwrap();
        }
    }

    /// What h2 is shown of these frames, for every size of reads.
    #[track_caller]
    fn shows(frames: &[Vec<u8>], expected: &[Vec<u8>]) {
        let limits = HttpLimits { control_frames: 100, ..LIMITS };
        for size in [1, 3, 4, 5, 1000] {
            let mut watch = Frames::new();
            let mut bytes = [&[b'x'; 24], &frames.concat()[..]].concat();
            for part in bytes.chunks_mut(size) {
                watch.look(part, &limits, Instant::now).unwrap();
            }
            assert_eq!(bytes[24..], expected.concat(), "by {size}");
        }
    }

    #[test]
    fn a_push_promise_looks_like_a_continuation_of_nothing() {
        let flagged = |kind, flags| {
            let mut frame = frame(kind, 6);
            frame[4] = flags;
            frame
        };
        for flags in [0, END_HEADERS] {
            let (promise, nothing) = (flagged(PUSH_PROMISE, flags), flagged(CONTINUATION, flags));
            shows(std::slice::from_ref(&promise), std::slice::from_ref(&nothing));
            let whole = flagged(HEADERS, END_HEADERS);
            shows(&[whole.clone(), promise.clone()], &[whole, nothing.clone()]);
            let block = [flagged(HEADERS, 0), flagged(CONTINUATION, END_HEADERS)];
            shows(&[&block[..], &[promise]].concat(), &[&block[..], &[nothing]].concat());
        }
        // It would end what it is in the middle of.
        let within = [flagged(HEADERS, 0), flagged(PUSH_PROMISE, END_HEADERS)];
        shows(&within, &within);
        let within = [flagged(HEADERS, 0), flagged(CONTINUATION, 0), flagged(PUSH_PROMISE, 0)];
        shows(&within, &within);
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_does_not_depend_on_how_bytes_are_cut(
            frames in proptest::collection::vec(any_frame(), 0..12),
            noise: Vec<u8>,
            size in 1_usize..40,
        ) {
            let bytes = [&[b'x'; 24], &frames.concat()[..], &noise].concat();
            let look = |size: usize| {
                let (mut watch, mut bytes) = (Frames::new(), bytes.clone());
                let mut parts = bytes.chunks_mut(size);
                let judged = parts.try_for_each(|part| watch.look(part, &LIMITS, Instant::now));
                (judged, bytes)
            };
            let (whole, shown) = look(bytes.len());
            let (judged, shown_in_parts) = look(size);
            proptest::prop_assert_eq!(judged, whole);
            // What follows what there is too much of is seen by nobody.
            proptest::prop_assert!(whole.is_err() || shown_in_parts == shown);
        }
    }

    fn any_frame() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::strategy::Strategy;
        (0_u8..12, 0_u8..20, 0_u8..16).prop_map(|(kind, length, flags)| {
            let mut frame = frame(kind, length);
            frame[4] = flags;
            frame
        })
    }
}
