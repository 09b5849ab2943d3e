//! Address and port translation of a packet in place.

use lb_common::{address::Address, checksum, drop_reason::DropReason, flow::Translation};

use crate::{
    family::Family,
    parse::{Segment, TCP},
    verdict::Verdict,
};

/// Whether the packet may travel one hop further.
///
/// # Errors
/// The verdict for a packet whose TTL or hop limit would reach zero.
#[inline(always)]
pub fn check_ttl<F: Family>(segment: &Segment<F>) -> Result<(), Verdict> {
    // SAFETY: the parser checked the bounds.
    if F::ttl(unsafe { &*segment.ip }) <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    Ok(())
}

/// Writes another tuple into the packet and repairs its checksums by the differences that
/// this makes (RFC 1624).
#[inline(always)]
pub fn translate<F: Family>(segment: &Segment<F>, to: &Translation<'_, F::Address>) {
    // SAFETY: the parser checked the bounds; nothing else refers to these bytes.
    unsafe {
        F::translate(&mut *segment.ip, *to.source, *to.destination, to.deltas.header);
        *segment.ports =
            [to.source_port.wire().to_ne_bytes(), to.destination_port.wire().to_ne_bytes()];
        let sum = u16::from_ne_bytes(*segment.checksum);
        let delta = to.deltas.transport;
        let sum = if segment.key.protocol == TCP {
            checksum::apply(sum, delta)
        } else if <F::Address as Address>::HEADER_CHECKSUM {
            checksum::apply_udp4(sum, delta)
        } else {
            checksum::apply_udp6(sum, delta)
        };
        *segment.checksum = sum.to_ne_bytes();
    }
}
