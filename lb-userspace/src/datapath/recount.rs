//! Counts of servers' flows that have gone wrong, found by counting anew. Pure.
//!
//! The data plane counts every flow up and down once. A count may be wrong all the same: somebody
//! else has deleted entries, or an agent of an earlier version ended between deleting idle
//! flows and counting them down. A count that stays too high would in the end close its server
//! (`max_connections`).
//!
//! A sweep sees the flows of some seconds, the count is of an instant. So only a count that
//! was the same before and after it, and as far from what was found in
//! [`SWEEPS`] sweeps in a row, is put right: a server that is busy keeps its error until it is
//! quiet for that long. If flows that come and go should hide that nothing was wrong, the next
//! such correction takes it back.

use std::collections::HashMap;

use lb_common::flow::Handle;

/// Sweeps in a row that have to find the same.
const SWEEPS: u32 = 3;

/// What is suspected of counts.
#[derive(Debug, Default)]
pub(crate) struct Recount {
    suspects: HashMap<Handle, Suspect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspect {
    count: u32,
    found: u32,
    sweeps: u32,
}

impl Recount {
    /// How much too high counts are: with their values before a sweep, the flows that it
    /// found, and their values after it (asked for where the first two differ). Too low is a
    /// negative number.
    ///
    /// # Errors
    /// What `after` returns.
    pub(crate) fn judge<E>(
        &mut self,
        before: &HashMap<Handle, u32>,
        found: &HashMap<Handle, u32>,
        mut after: impl FnMut(Handle) -> Result<u32, E>,
    ) -> Result<Vec<(Handle, i32)>, E> {
        let known = std::mem::take(&mut self.suspects);
        let mut wrong = Vec::new();
        for (server, count) in before {
            let found = found.get(server).copied().unwrap_or(0);
            if *count == found || after(*server)? != *count {
                continue;
            }
            let new = Suspect { count: *count, found, sweeps: 1 };
            let suspect = match known.get(server) {
                Some(old) if Suspect { sweeps: 1, ..*old } == new => {
                    Suspect { sweeps: old.sweeps + 1, ..new }
                }
                _ => new,
            };
            if suspect.sweeps < SWEEPS {
                self.suspects.insert(*server, suspect);
            } else {
                wrong.push((*server, count.wrapping_sub(found).cast_signed()));
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SERVER: Handle = Handle { id: 3, generation: 2 };

    fn judge(recount: &mut Recount, before: u32, found: u32, after: u32) -> Option<i32> {
        let found = if found == 0 { HashMap::new() } else { [(SERVER, found)].into() };
        let after = |_| Ok::<_, Infallible>(after);
        let wrong = recount.judge(&[(SERVER, before)].into(), &found, after).unwrap();
        assert!(wrong.iter().all(|(server, _)| *server == SERVER) && wrong.len() < 2);
        wrong.first().map(|(_, flows)| *flows)
    }

    #[test]
    fn count_that_stays_wrong_is_put_right_at_the_third_sweep() {
        for (count, found, expected) in [(7, 4, 3), (7, 0, 7), (0, 2, -2), (u32::MAX, 0, -1)] {
            let mut recount = Recount::default();
            assert_eq!(judge(&mut recount, count, found, count), None);
            assert_eq!(judge(&mut recount, count, found, count), None);
            assert_eq!(judge(&mut recount, count, found, count), Some(expected));
            assert_eq!(judge(&mut recount, found, found, found), None);
            assert_eq!(judge(&mut recount, count, found, count), None, "it begins anew");
        }
    }

    #[test]
    fn count_that_moves_or_agrees_meanwhile_is_left_alone() {
        let mut recount = Recount::default();
        for _ in 0..10 {
            assert_eq!(judge(&mut recount, 7, 4, 7), None);
            assert_eq!(judge(&mut recount, 7, 4, 7), None);
            assert_eq!(judge(&mut recount, 7, 4, 8), None, "it moved");
            assert_eq!(judge(&mut recount, 7, 4, 7), None);
            assert_eq!(judge(&mut recount, 8, 5, 8), None, "as far off, but not the same");
            assert_eq!(judge(&mut recount, 7, 4, 7), None);
            assert_eq!(judge(&mut recount, 4, 4, 4), None);
        }
    }
}
