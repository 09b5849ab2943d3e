//! The two tables a flow can be in, and leaving them.

use lb_common::{
    flow::{FlowEntry, FlowKey},
    tcp_state::Progress,
};

use crate::{event, family::Family, parse::Segment};

/// Which of the two tables an entry was found in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Confirmed by both sides.
    Flows,
    /// Not yet.
    HalfOpen,
}

impl Table {
    /// The entry of a key in this table.
    #[inline(always)]
    pub fn get<F: Family>(self, key: &FlowKey<F::Address>) -> Option<*mut FlowEntry<F::Address>> {
        match self {
            Self::Flows => F::flows().get_ptr_mut(key),
            Self::HalfOpen => F::half_open().get_ptr_mut(key),
        }
    }

    /// Forgets the entry of a key; it is no error if there is none.
    #[inline(always)]
    pub fn remove<F: Family>(self, key: &FlowKey<F::Address>) {
        let _absent = match self {
            Self::Flows => F::flows().remove(key),
            Self::HalfOpen => F::half_open().remove(key),
        };
    }
}

/// Removes both entries of a flow and reports its end unless that was done.
#[inline(always)]
pub fn forget<F: Family>(
    table: Table,
    segment: &Segment<F>,
    entry: &FlowEntry<F::Address>,
    cause: u8,
) {
    let partner_key = entry.partner_key();
    if entry.progress & Progress::REPORTED == 0 {
        // SAFETY: the entry stays mapped for the run of the program.
        let partner = table.get::<F>(&partner_key).map(|partner| unsafe { &*partner });
        event::report(&segment.key, entry, partner, cause);
    }
    table.remove::<F>(&partner_key);
    table.remove::<F>(&segment.key);
}
