//! Durations as people write them: `5s`, `100ms`, `1h30m`. Never without a unit.

use std::{fmt, time::Duration};

use super::{
    decode::Cursor,
    fault::{Refusal, quoted, shorten},
    schema::Shape,
};

/// A duration that is read and shown with units: one or more integers, each followed by
/// `us`, `ms`, `s`, `m`, `h` or `d`, from the largest unit to the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HumanDuration(pub(super) Duration);

/// Units with their length in microseconds, largest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const FORM: &str = "durations are written like 100ms, 5s, 1h30m";

impl HumanDuration {
    /// Reads a duration.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let not_one = || Refusal::new(format!("{} is not a duration", quoted(text))).hint(FORM);
        let mut rest = text;
        let mut micros: u64 = 0;
        let mut units_left = UNITS.as_slice();
        while !rest.is_empty() {
            let (digits, tail) = split_where(rest, |c| !c.is_ascii_digit());
            let (unit, tail) = split_where(tail, |c| !c.is_ascii_alphabetic());
            if digits.is_empty() {
                return Err(not_one());
            }
            if unit.is_empty() && tail.is_empty() {
                let message = format!("{} has no unit", quoted(text));
                return Err(Refusal::new(message).hint("such as 5s or 100ms"));
            }
            let place = units_left.iter().position(|(name, _)| *name == unit);
            let (Some(place), Ok(count)) = (place, digits.parse::<u64>()) else {
                return Err(not_one());
            };
            let (_, length) = units_left[place];
            units_left = &units_left[place + 1..];
            let total = count.checked_mul(length).and_then(|part| micros.checked_add(part));
            micros = total.ok_or_else(|| Refusal::new(format!("{} is too long", quoted(text))))?;
            rest = tail;
        }
        if text.is_empty() {
            return Err(not_one());
        }
        Ok(Self(Duration::from_micros(micros)))
    }
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

impl fmt::Display for HumanDuration {
    /// The shortest form that [`HumanDuration`] reads back; below a microsecond is cut off.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_micros();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, length) in UNITS {
            let count = rest / u128::from(length);
            rest %= u128::from(length);
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

/// The shape of a duration between two bounds, inclusive.
pub(super) struct Period {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Shape for Period {
    type Output = Duration;

    fn describe(&self) -> String {
        format!("duration from {} to {}", HumanDuration(self.min), HumanDuration(self.max))
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Duration> {
        let Some(text) = cursor.text(true) else {
            return cursor.wrong_type("a duration", Some(FORM.into()));
        };
        let bound = match HumanDuration::parse(&text) {
            Err(refusal) => return cursor.reject(refusal),
            Ok(HumanDuration(value)) if value < self.min => ("less", self.min),
            Ok(HumanDuration(value)) if value > self.max => ("more", self.max),
            Ok(HumanDuration(value)) => return Some(value),
        };
        let (side, limit) = bound;
        let message = format!("{} is {side} than {}", shorten(&text), HumanDuration(limit));
        cursor.reject(Refusal::new(message).hint(format!("a {}", self.describe())))
    }
}

/// The shape of a duration, or of none: `off`.
pub(super) struct PeriodOrOff(pub(super) Period);

impl Shape for PeriodOrOff {
    /// None for `off`.
    type Output = Option<Duration>;

    fn describe(&self) -> String {
        format!("{}, or `off`", self.0.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Option<Duration>> {
        if cursor.text(true).as_deref() == Some("off") {
            return Some(None);
        }
        self.0.decode(cursor).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<u64, &str>) {
        let got = HumanDuration::parse(text).map(|duration| duration.0.as_micros());
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, u128::from(expected), "{text}"),
            (Err(got), Err(expected)) => assert_eq!(got.message, expected),
            (got, expected) => panic!("{text}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn reads_every_unit_and_their_sums() {
        check("7us", Ok(7));
        check("100ms", Ok(100_000));
        check("5s", Ok(5_000_000));
        check("0s", Ok(0));
        check("2m", Ok(120_000_000));
        check("1h30m", Ok(5_400_000_000));
        check("1d2h3m4s5ms6us", Ok(93_784_005_006));
    }

    #[test]
    fn refuses_what_is_not_a_duration() {
        check("", Err("\"\" is not a duration"));
        check("5", Err("\"5\" has no unit"));
        check("1h30", Err("\"1h30\" has no unit"));
        check("5 s", Err("\"5 s\" is not a duration"));
        check("1.5s", Err("\"1.5s\" is not a duration"));
        check("-5s", Err("\"-5s\" is not a duration"));
        check("5sec", Err("\"5sec\" is not a duration"));
        check("30m1h", Err("\"30m1h\" is not a duration"));
        check("1s1s", Err("\"1s1s\" is not a duration"));
        check("99999999999999999999d", Err("\"99999999999999999999d\" is not a duration"));
        check("9999999999999d", Err("\"9999999999999d\" is too long"));
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_back(micros in 0_u64..1 << 50) {
            let shown = HumanDuration(Duration::from_micros(micros)).to_string();
            let read = HumanDuration::parse(&shown).map(|duration| duration.0);
            proptest::prop_assert_eq!(read, Ok(Duration::from_micros(micros)));
        }
    }
}
