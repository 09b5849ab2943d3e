//! How long the body of a server's response is, said in one way alone (RFC 9112, 6.3).
//!
//! hyper reads a response that says it in two ways by the rules of the standard and leaves
//! what it did not go by in the fields, where the next reader may go by that: the way of
//! response splitting. So the fields are judged before they are passed on.

use hyper::{
    HeaderMap,
    header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING},
};

use super::headers::Present;

/// Judges the fields of a response and leaves one length at most.
///
/// # Errors
/// Why the response is refused, in a word.
pub(super) fn judge(
    fields: &mut HeaderMap,
    present: Present,
    has_body: bool,
) -> Result<(), &'static str> {
    if has_body && present.has(Present::TRANSFER_ENCODING) {
        // Of other codings only the server and the next hop were to know.
        let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
        let first = codings.next().filter(|_| codings.next().is_none());
        if !first.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err("response_transfer_encoding");
        }
        if present.has(Present::CONTENT_LENGTH) {
            return Err("response_length_and_encoding");
        }
    }
    if !present.has(Present::CONTENT_LENGTH) {
        return Ok(());
    }
    let Some(first) = fields.get(CONTENT_LENGTH) else { return Ok(()) };
    let is_alone = fields.len() == fields.keys_len();
    if (is_alone || fields.get_all(CONTENT_LENGTH).iter().count() == 1)
        && number(first.as_bytes()).is_some()
    {
        return Ok(());
    }
    // The same several times is allowed (RFC 9110, 8.6).
    let mut items = fields
        .get_all(CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|item| number(item.trim_ascii()));
    let length = items.next().flatten().filter(|first| items.all(|item| item == Some(*first)));
    let length = length.ok_or("response_length")?;
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    let append = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    let number = digits.iter().try_fold(0, append);
    number.filter(|_| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths that are left, or why not.
    fn check(lines: &[(&str, &str)], has_body: bool, expected: Result<&[&str], &str>) {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            fields.append(name, value.parse().unwrap());
        }
        let present = Present::of(&fields);
        let judged = judge(&mut fields, present, has_body).map(|()| {
            let left = fields.get_all(CONTENT_LENGTH).iter();
            left.map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(judged.as_deref().map_err(|why| *why), expected, "{lines:?}");
    }

    const LENGTH: &str = "content-length";
    const ENCODING: &str = "transfer-encoding";

    #[test]
    fn one_length_is_left() {
        check(&[], true, Ok(&[]));
        check(&[(LENGTH, "3")], true, Ok(&["3"]));
        check(&[(LENGTH, "3, 3")], true, Ok(&["3"]));
        check(&[(LENGTH, "3"), (LENGTH, "3")], true, Ok(&["3"]));
        check(&[(ENCODING, "Chunked")], true, Ok(&[]));
        // Without a body it is what there would be.
        check(&[(ENCODING, "chunked"), (LENGTH, "3")], false, Ok(&["3"]));
    }

    #[test]
    fn two_lengths_are_none() {
        for length in ["", "+3", "3, 4", "3,", "0x3", "18446744073709551616"] {
            check(&[(LENGTH, length)], true, Err("response_length"));
        }
        check(&[(LENGTH, "3"), (LENGTH, "4")], false, Err("response_length"));
        for lines in
            [[(LENGTH, "3"), (ENCODING, "chunked")], [(ENCODING, "chunked"), (LENGTH, "3")]]
        {
            check(&lines, true, Err("response_length_and_encoding"));
        }
        for coding in ["gzip", "gzip, chunked", "chunked, gzip", "identity", ""] {
            check(&[(ENCODING, coding)], true, Err("response_transfer_encoding"));
        }
        check(
            &[(ENCODING, "gzip"), (ENCODING, "chunked")],
            true,
            Err("response_transfer_encoding"),
        );
    }
}
