//! What looks at bytes of clients before hyper does, as a fuzzer calls it: the first byte
//! says how the rest is cut, which must make no difference.

use std::time::Instant;

use super::{
    frames::Frames,
    guard::{Guard, Verdict},
};
use crate::model::frontend::HttpLimits;

/// The guard of HTTP/1 (`guard`).
pub(crate) fn http1(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let whole = pass([bytes]);
    assert!(whole.0 <= bytes.len());
    assert_eq!(pass(bytes.chunks(usize::from(size).max(1))), whole);
}

/// How many bytes hyper sees before the guard holds or refuses, and what it then does.
fn pass<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (usize, Option<String>) {
    let (mut guard, mut passed) = (Guard::new(), 0);
    for piece in pieces {
        match guard.look(piece) {
            Verdict::Pass => passed += piece.len(),
            Verdict::Hold(good) if good < piece.len() => {
                return (passed + good, Some("held".into()));
            }
            Verdict::Hold(good) => passed += good,
            // How much of the line that is refused hyper sees depends on the cuts.
            Verdict::Refuse(good, why) => {
                assert!(good <= piece.len());
                return (0, Some(format!("{why:?}")));
            }
        }
    }
    (passed, None)
}

/// The watch over frames of HTTP/2 (`frames`).
pub(crate) fn http2(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let now = Instant::now();
    // Few, so that they are reached.
    let limits = HttpLimits {
        header_bytes: 1,
        header_count: 1,
        uri_bytes: 1,
        body_bytes: 1,
        body_rate: 1,
        streams: 1,
        resets: 3,
        control_frames: 3,
    };
    let look = |size: usize| {
        let (mut watch, mut bytes) = (Frames::new(), bytes.to_vec());
        let judged = bytes.chunks_mut(size).try_for_each(|part| watch.look(part, &limits, || now));
        (judged, bytes)
    };
    let (whole, shown) = look(bytes.len().max(1));
    let (judged, shown_in_parts) = look(usize::from(size).max(1));
    assert_eq!(judged, whole);
    // What follows what there is too much of is seen by nobody.
    assert!(whole.is_err() || shown_in_parts == shown);
}
