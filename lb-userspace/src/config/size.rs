//! Numbers of bytes as people write them: `16KiB`, `10GiB`. Never without a unit.

use super::{
    decode::Cursor,
    fault::{Refusal, quoted, shorten},
    schema::Shape,
};

/// Units with their length in bytes, largest first.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const FORM: &str = "sizes are written like 512B, 16KiB, 10GiB";

/// The shape of a number of bytes between two bounds, inclusive.
pub(super) struct Size {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Shape for Size {
    type Output = u64;

    fn describe(&self) -> String {
        format!("size from {} to {}", show(self.min), show(self.max))
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<u64> {
        let Some(text) = cursor.text(true) else {
            return cursor.wrong_type("a size", Some(FORM.into()));
        };
        let bound = match parse(&text) {
            Err(refusal) => return cursor.reject(refusal),
            Ok(value) if value < self.min => ("less", self.min),
            Ok(value) if value > self.max => ("more", self.max),
            Ok(value) => return Some(value),
        };
        let (side, limit) = bound;
        let message = format!("{} is {side} than {}", shorten(&text), show(limit));
        cursor.reject(Refusal::new(message).hint(format!("a {}", self.describe())))
    }
}

fn parse(text: &str) -> Result<u64, Refusal> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() && !number.is_empty() {
        return Err(Refusal::new(format!("{} has no unit", quoted(text))).hint(FORM));
    }
    let length = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, length)| *length);
    let size = number.parse::<u64>().ok().zip(length);
    let size = size.and_then(|(number, length)| number.checked_mul(length));
    size.ok_or_else(|| Refusal::new(format!("{} is not a size", quoted(text))).hint(FORM))
}

/// In the largest unit that divides it.
fn show(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, length)| bytes > 0 && bytes.is_multiple_of(*length));
    let (name, length) = unit.unwrap_or(&("B", 1));
    format!("{}{name}", bytes / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let read = |text| parse(text).map_err(|refusal| refusal.message);
        assert_eq!(read("0B"), Ok(0));
        assert_eq!(read("16KiB"), Ok(16_384));
        assert_eq!(read("10GiB"), Ok(10 << 30));
        assert_eq!(read("5"), Err("\"5\" has no unit".into()));
        for bad in ["", "KiB", "1 KiB", "1kib", "-1B", "1.5MiB", "99999999999TiB"] {
            assert_eq!(read(bad), Err(format!("{bad:?} is not a size")));
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["0B", "1023B", "16KiB", "3MiB", "10GiB", "1024TiB"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
