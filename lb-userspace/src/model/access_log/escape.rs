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
        match str::from_utf8(self.0) {
            Ok(text) => Self::push(text, to),
            Err(_) => escape(self.0, to),
        }
    }

    /// The same for what is text already.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn push(text: &str, to: &mut impl Write) -> fmt::Result {
        match text.bytes().all(|byte| IS_PLAIN[usize::from(byte)]) {
            true => to.write_str(text),
            false => escape(text.as_bytes(), to),
        }
    }
}

/// The bytes that stand for themselves.
const IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] = !matches!(byte, b'"' | b'\\' | b'{' | b'|' | b'}');
        byte += 1;
    }
    table
};

fn escape(bytes: &[u8], to: &mut impl Write) -> fmt::Result {
    for byte in bytes {
        match IS_PLAIN[usize::from(*byte)] {
            true => to.write_char(char::from(*byte))?,
            false => write!(to, "%{byte:02X}")?,
        }
    }
    Ok(())
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
