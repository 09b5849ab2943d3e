//! Times of the week in a time zone: business hours, maintenance windows.

use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

/// Seconds of a day.
pub const DAY: u32 = 86_400;

/// A time of day on some days of the week, in one time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The days, from Monday to Sunday.
    pub days: [bool; 7],
    /// First second of the day, 0 to 86,399.
    pub from: u32,
    /// First second after it, 1 to 86,400. Not greater than `from`: it reaches into the next
    /// day, and `days` says on which days it starts.
    pub to: u32,
    /// The time zone; daylight saving is taken from it.
    pub zone: TimeZone,
}

impl Schedule {
    /// Whether the time `now`, in seconds of the Unix clock, is in it. Times the calendar does
    /// not reach are not.
    #[must_use]
    pub fn contains(&self, now: i64) -> bool {
        let Ok(now) = Timestamp::from_second(now) else { return false };
        let local = self.zone.to_datetime(now);
        let clock = local.time();
        let part = |value: i8| u32::try_from(value).unwrap_or_default();
        let second = part(clock.hour()) * 3600 + part(clock.minute()) * 60 + part(clock.second());
        let today = local.weekday();
        if self.from < self.to {
            return self.is_on(today) && (self.from..self.to).contains(&second);
        }
        self.is_on(today) && second >= self.from || self.is_on(today.previous()) && second < self.to
    }

    fn is_on(&self, day: Weekday) -> bool {
        let index = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
        self.days.get(index).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a schedule in Berlin holds at a time of UTC.
    fn holds(days: [bool; 7], from: u32, to: u32, now: &str) -> bool {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now: Timestamp = now.parse().unwrap();
        Schedule { days, from, to, zone }.contains(now.as_second())
    }

    const WORKDAYS: [bool; 7] = [true, true, true, true, true, false, false];
    const FRIDAY: [bool; 7] = [false, false, false, false, true, false, false];

    #[test]
    fn business_hours_follow_daylight_saving() {
        let office = |now| holds(WORKDAYS, 9 * 3600, 17 * 3600, now);
        // 2026-07-01 is a Wednesday; Berlin is two hours ahead, in winter one.
        assert!(office("2026-07-01T07:00:00Z") && !office("2026-07-01T06:59:59Z"));
        assert!(office("2026-07-01T14:59:59Z") && !office("2026-07-01T15:00:00Z"));
        assert!(office("2026-12-02T08:00:00Z") && !office("2026-12-02T07:30:00Z"));
        assert!(!office("2026-07-04T10:00:00Z"));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_starts() {
        let night = |now| holds(FRIDAY, 22 * 3600, 6 * 3600, now);
        // 2026-07-03 is a Friday.
        assert!(night("2026-07-03T20:00:00Z") && night("2026-07-04T03:59:59Z"));
        assert!(!night("2026-07-03T03:00:00Z") && !night("2026-07-04T04:00:00Z"));
        assert!(!night("2026-07-04T21:00:00Z"));
    }

    #[test]
    fn a_whole_day_ends_at_midnight() {
        let friday = |now| holds(FRIDAY, 0, DAY, now);
        assert!(friday("2026-07-02T22:00:00Z") && friday("2026-07-03T21:59:59Z"));
        assert!(!friday("2026-07-03T22:00:00Z") && !friday("2026-07-02T21:59:59Z"));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_in_no_schedule() {
        let schedule = Schedule { days: [true; 7], from: 0, to: DAY, zone: TimeZone::UTC };
        assert!(!schedule.contains(i64::MAX) && !schedule.contains(i64::MIN));
        assert!(schedule.contains(0));
    }
}
