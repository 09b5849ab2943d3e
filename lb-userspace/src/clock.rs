//! The two clocks of the agent, read together: wall time for people, and the data plane's
//! `CLOCK_MONOTONIC_COARSE` (clock_gettime(2)) that stands in flows and events.

use std::{
    cell::RefCell,
    fmt, mem,
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Wall time.
    pub wall: SystemTime,
    /// `CLOCK_MONOTONIC_COARSE`, nanoseconds since boot.
    pub monotonic_ns: u64,
}

impl Moment {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        let coarse =
            clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Into::into);
        Self {
            wall: SystemTime::now(),
            monotonic_ns: u64::try_from(coarse.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The wall time of a data-plane timestamp, as far as the clocks ran alike since.
    #[must_use]
    pub fn wall_of(&self, monotonic_ns: u64) -> SystemTime {
        let ago = Duration::from_nanos(self.monotonic_ns.saturating_sub(monotonic_ns));
        self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long ago a data-plane timestamp was; zero if it lies ahead.
    #[must_use]
    pub fn since(&self, monotonic_ns: u64) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(monotonic_ns))
    }
}

/// A wall time as RFC 3339 in UTC with milliseconds: `2026-01-31T12:34:56.789Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// A wall time as milliseconds since 1970.
#[must_use]
pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What keeps the kernel's wall clock in step, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// Somebody (NTP, PTP) sets the clock, and did of late.
    pub is_synchronised: bool,
    /// How far off it can be. It grows by half a millisecond a second until the clock is set
    /// again; at 16 s the clock counts as left alone.
    pub most_error: Duration,
}

/// Asks the kernel who sets its wall clock (adjtimex(2)); none if it does not say.
#[must_use]
pub fn discipline() -> Option<Discipline> {
    // SAFETY: `timex` is plain numbers; zeros, `modes` among them, ask and change nothing.
    let mut clock: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` of ours, which lives until the call returns.
    if unsafe { libc::adjtimex(&raw mut clock) } < 0 {
        return None;
    }
    let most_error = Duration::from_micros(u64::try_from(clock.maxerror).ok()?);
    Some(Discipline { is_synchronised: clock.status & libc::STA_UNSYNC == 0, most_error })
}

thread_local! {
    /// The last second that was written, and how: lines come many a second.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// A wall time in UTC as HAProxy writes it, with milliseconds: `31/Jan/2026:12:34:56.789`.
#[derive(Clone, Copy, Debug)]
pub struct HaproxyDate(pub SystemTime);

impl fmt::Display for HaproxyDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        push_haproxy_date(&mut text, self.0);
        f.write_str(&text)
    }
}

/// Appends what [`HaproxyDate`] shows.
pub fn push_haproxy_date(line: &mut String, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *text = day_first(&rfc3339(time));
        }
        line.push_str(text);
    });
    line.push('.');
    let milliseconds = since.subsec_millis();
    for unit in [100, 10, 1] {
        line.push(char::from_digit(milliseconds / unit % 10, 10).unwrap_or('0'));
    }
}

/// A wall time in UTC as the Common Log Format has it: `31/Jan/2026:12:34:56 +0000`.
#[must_use]
pub fn clf_date(time: SystemTime) -> String {
    format!("{} +0000", day_first(&rfc3339(time)))
}

/// `31/Jan/2026:12:34:56` of a time in RFC 3339.
fn day_first(text: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let part = |range| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1));
    let month = month.copied().unwrap_or_default();
    format!("{}/{month}/{}:{}", part(8..10), part(0..4), part(11..19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_others_have_dates_of_their_own() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_233_922_371_443);
        assert_eq!(HaproxyDate(time).to_string(), "06/Feb/2009:12:12:51.443");
        assert_eq!(clf_date(time), "06/Feb/2009:12:12:51 +0000");
    }

    #[test]
    fn a_data_plane_timestamp_becomes_wall_time() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let moment = Moment { wall, monotonic_ns: 5_000_000_000 };
        assert_eq!(rfc3339(moment.wall_of(3_500_000_000)), "1970-01-12T13:46:38.500Z");
        assert_eq!(moment.since(3_500_000_000), Duration::from_millis(1500));
        assert_eq!(moment.since(6_000_000_000), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_nobody_sets_may_be_far_off() {
        let clock = discipline().expect("anyone may ask");
        // `NTP_PHASE_LIMIT`.
        let most = Duration::from_secs(16);
        assert!(clock.most_error <= most, "{clock:?}");
        assert!(clock.is_synchronised || clock.most_error == most, "{clock:?}");
    }

    #[test]
    fn the_coarse_clock_advances() {
        let first = Moment::now();
        std::thread::sleep(Duration::from_millis(30));
        let second = Moment::now();
        assert!(second.monotonic_ns > first.monotonic_ns);
        assert!(first.monotonic_ns > 0);
    }
}
