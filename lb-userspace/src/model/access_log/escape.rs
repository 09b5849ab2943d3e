//! What others have written, in a form that can end neither a line nor a field.

use std::fmt::{self, Display, Write};

/// Bytes in which everything but printable ASCII is percent-encoded, and so are quotes,
/// backslashes, and the braces and bars that frame captured headers. What comes out can
/// stand in quotes, in JSON strings and in braces.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl Escaped<'_> {
    /// Writes what comes out.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, to: &mut impl Write) -> fmt::Result {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !br#""\{|}"#.contains(byte);
        if let Ok(text) = str::from_utf8(self.0)
            && text.bytes().all(|byte| is_plain(&byte))
        {
            return to.write_str(text);
        }
        for byte in self.0 {
            match is_plain(byte) {
                true => to.write_char(char::from(*byte))?,
                false => write!(to, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_field_or_a_line() {
        let check = |given: &[u8], expected: &str| assert_eq!(Escaped(given).to_string(), expected);
        check(b"Mozilla/5.0 (X11)", "Mozilla/5.0 (X11)");
        check(b"a\"b\\c\r\nd|{e}\xff\0", "a%22b%5Cc%0D%0Ad%7C%7Be%7D%FF%00");
    }
}
