//! Watches the bytes of an HTTP/1 client before hyper parses them, and refuses what hyper
//! would silently repair: messages that two parsers could understand in two ways
//! (RFC 9112, 6.1 and 11.2, request smuggling).
//!
//! It finds the boundaries of messages by itself and looks at framing alone; all else is
//! hyper's, or `admit`'s. A refusal overwrites the rest of what came with zeros, which are
//! good nowhere in a message, so that hyper answers 400 at the right place in a pipeline
//! and closes. Bytes after a request that asks for another protocol are held back until it
//! is known who they are for.

/// Longest line that is put together from several reads; hyper's limit on a header comes
/// before it.
const MAX_LINE: usize = 64 * 1024;
/// Most digits of a length: what fits 64 bits whatever they are.
const MAX_LENGTH_DIGITS: usize = 19;
/// Most hexadecimal digits of a chunk's size.
const MAX_SIZE_DIGITS: u8 = 15;
/// Most bytes after the size of a chunk on its line.
const MAX_EXTENSION: usize = 1024;
/// Most bytes of trailers.
const MAX_TRAILERS: usize = 32 * 1024;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// More than one `Content-Length`.
    RepeatedLength,
    /// A `Content-Length` that is no number.
    MalformedLength,
    /// A `Transfer-Encoding` that is not just `chunked`, or more than one.
    Encoding,
    /// A request target with a fragment, or with bytes that are not ASCII.
    Target,
    /// A chunk that does not follow the grammar.
    Chunk,
    /// A line or trailers longer than any limit.
    TooLong,
}

impl Ambiguity {
    /// In a word, for the log.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::LengthAndEncoding => "length_and_encoding",
            Self::RepeatedLength => "repeated_length",
            Self::MalformedLength => "malformed_length",
            Self::Encoding => "transfer_encoding",
            Self::Target => "request_target",
            Self::Chunk => "chunk",
            Self::TooLong => "too_long",
        }
    }
}

/// What to do with what was just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is for hyper.
    Pass,
    /// This many bytes are for hyper; the rest waits for a decision.
    Hold(usize),
    /// This many bytes are good; the rest must never be parsed.
    Refuse(usize, Ambiguity),
}

/// Where in the stream of messages the next byte belongs.
#[derive(Debug)]
pub(super) struct Guard {
    state: State,
    head: Head,
    /// The part of a line that came with earlier reads.
    partial: Vec<u8>,
    /// Headers that were complete so far.
    headers: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a header, or between messages.
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// In the line of a chunk's size: digits so far, and the size they give.
    Size(u8, u64),
    /// After the size, up to the end of the line.
    Extension(u64, usize),
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The line end behind a chunk: how much of it has come.
    ChunkEnd(bool),
    /// In the trailers: bytes so far, and those of the current line.
    Trailers(usize, usize),
    /// After a request for another protocol.
    Undecided,
    /// Another protocol.
    Opaque,
    /// After a refusal.
    Refused,
}

/// What is known of the header that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    wants_other_protocol: bool,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self { state: State::Head, head: Head::default(), partial: Vec::new(), headers: 0 }
    }

    /// One that lets everything pass.
    pub(super) fn opaque() -> Self {
        Self { state: State::Opaque, ..Self::new() }
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Whether the last byte was the last of a message, or of nothing.
    pub(super) fn is_between_messages(&self) -> bool {
        self.state == State::Head && !self.head.has_request_line && self.partial.is_empty()
    }

    /// How many headers were complete so far.
    pub(super) fn headers(&self) -> u64 {
        self.headers
    }

    /// Whether a header has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        self.state == State::Head && !self.is_between_messages()
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// The request for another protocol was answered: with it, or as any other request.
    pub(super) fn decide(&mut self, is_opaque: bool) {
        if self.is_undecided() {
            self.state = if is_opaque { State::Opaque } else { State::Head };
            self.head = Head::default();
        }
    }

    /// Looks at what was just read.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let step = match self.state {
                State::Head => self.head(rest),
                State::Undecided => return Verdict::Hold(at),
                State::Opaque => return Verdict::Pass,
                State::Refused => Err((0, Ambiguity::TooLong)),
                _ => self.body(rest),
            };
            match step {
                Ok(taken) => at += taken,
                Err((good, why)) => {
                    self.state = State::Refused;
                    return Verdict::Refuse(at + good, why);
                }
            }
        }
        Verdict::Pass
    }

    /// One line of a header, or what there is of it.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, (usize, Ambiguity)> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.partial.len() + bytes.len() > MAX_LINE {
                return Err((0, Ambiguity::TooLong));
            }
            self.partial.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let judged = if self.partial.is_empty() {
            self.head.line(without_end(&bytes[..end]))
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            let judged = self.head.line(without_end(&line));
            line.clear();
            self.partial = line;
            judged
        };
        match judged {
            Ok(false) => Ok(end + 1),
            Ok(true) => {
                self.headers += 1;
                self.state = self.after_head();
                if self.state == State::Head {
                    self.head = Head::default();
                }
                Ok(end + 1)
            }
            Err(why) => Err((0, why)),
        }
    }

    fn after_head(&self) -> State {
        match self.head {
            Head { is_chunked: true, .. } => State::Size(0, 0),
            Head { length: Some(length @ 1..), .. } => State::Body(length),
            _ => self.after_body(),
        }
    }

    fn after_body(&self) -> State {
        if self.head.wants_other_protocol { State::Undecided } else { State::Head }
    }

    fn body_ends(&mut self) {
        self.state = self.after_body();
        self.head = Head::default();
    }

    fn body(&mut self, bytes: &[u8]) -> Result<usize, (usize, Ambiguity)> {
        let malformed = Err((0, Ambiguity::Chunk));
        let byte = bytes[0];
        self.state = match self.state {
            State::Body(left) | State::Chunk(left) => {
                let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - taken as u64;
                match (self.state, left) {
                    (State::Body(_), 0) => self.body_ends(),
                    (State::Body(_), _) => self.state = State::Body(left),
                    (_, 0) => self.state = State::ChunkEnd(false),
                    _ => self.state = State::Chunk(left),
                }
                return Ok(taken);
            }
            State::Size(digits, size) => match (char::from(byte).to_digit(16), byte) {
                (Some(_), _) if digits == MAX_SIZE_DIGITS => return malformed,
                (Some(digit), _) => State::Size(digits + 1, size << 4 | u64::from(digit)),
                (None, b'\r' | b';' | b' ' | b'\t') if digits > 0 => {
                    // Not taken: the line's end, and what must not be in it, is judged there.
                    self.state = State::Extension(size, 0);
                    return Ok(0);
                }
                _ => return malformed,
            },
            State::Extension(size, length) => match byte {
                b'\n' if size == 0 => State::Trailers(0, 0),
                b'\n' => State::Chunk(size),
                _ if length == MAX_EXTENSION => return malformed,
                _ => State::Extension(size, length + 1),
            },
            State::ChunkEnd(false) if byte == b'\r' => State::ChunkEnd(true),
            State::ChunkEnd(true) if byte == b'\n' => State::Size(0, 0),
            State::Trailers(_, 0) if byte == b'\n' => {
                self.body_ends();
                return Ok(1);
            }
            State::Trailers(all, _) if all == MAX_TRAILERS => {
                return Err((0, Ambiguity::TooLong));
            }
            State::Trailers(all, _) if byte == b'\n' => State::Trailers(all + 1, 0),
            State::Trailers(all, line) if byte == b'\r' => State::Trailers(all + 1, line),
            State::Trailers(all, line) => State::Trailers(all + 1, line + 1),
            _ => return malformed,
        };
        Ok(1)
    }
}

impl Head {
    /// Takes a line; true if it ends the header.
    fn line(&mut self, line: &[u8]) -> Result<bool, Ambiguity> {
        if !self.has_request_line {
            // Empty lines before a request are passed over (RFC 9112, 2.2).
            if !line.is_empty() {
                self.has_request_line = true;
                return self.request_line(line).map(|()| false);
            }
            return Ok(false);
        }
        match line.first().map(u8::to_ascii_lowercase) {
            None => return Ok(true),
            Some(b'c') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.length(value)?;
                }
            }
            Some(b't') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    self.encoding(value)?;
                }
            }
            Some(b'u') => {
                self.wants_other_protocol |= value_of(line, b"upgrade").is_some();
            }
            _ => {}
        }
        Ok(false)
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        self.wants_other_protocol = line.starts_with(b"CONNECT ");
        if line.iter().any(|byte| *byte == b'#' || !byte.is_ascii()) {
            return Err(Ambiguity::Target);
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Ambiguity> {
        if self.is_chunked {
            return Err(Ambiguity::LengthAndEncoding);
        }
        if self.length.is_some() {
            return Err(Ambiguity::RepeatedLength);
        }
        let is_number =
            (1..=MAX_LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| is_number);
        let number = number.and_then(|text| text.parse().ok());
        self.length = Some(number.ok_or(Ambiguity::MalformedLength)?);
        Ok(())
    }

    fn encoding(&mut self, value: &[u8]) -> Result<(), Ambiguity> {
        if self.length.is_some() {
            return Err(Ambiguity::LengthAndEncoding);
        }
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Ambiguity::Encoding);
        }
        self.is_chunked = true;
        Ok(())
    }
}

/// A line without the CR of its end.
fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The value of a field of this name, which is in lower case.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of `bytes`, whole and in every two parts.
    #[track_caller]
    fn check(bytes: &str, expected: Result<usize, Ambiguity>) {
        let judge = |parts: &[&[u8]]| {
            let mut guard = Guard::new();
            let mut passed = 0;
            for part in parts {
                match guard.look(part) {
                    Verdict::Pass => passed += part.len(),
                    Verdict::Hold(good) => return Ok(passed + good),
                    Verdict::Refuse(_, why) => return Err(why),
                }
            }
            Ok(passed)
        };
        let bytes = bytes.as_bytes();
        assert_eq!(judge(&[bytes]), expected);
        for cut in 1..bytes.len() {
            let (start, end) = bytes.split_at(cut);
            assert_eq!(judge(&[start, end]), expected, "cut at {cut}");
        }
    }

    fn pass(bytes: &str) {
        check(bytes, Ok(bytes.len()));
    }

    #[test]
    fn messages_with_one_meaning_pass() {
        pass("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        pass("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n");
        pass("POST / HTTP/1.1\r\ncontent-length:\t0 \r\n\r\nGET / HTTP/1.1\r\n\r\n");
        pass(
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n\
             POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        );
        pass("\r\nGET / HTTP/1.0\nContent-Lengthy: x\n\nGET / HTTP/1.0\n\n");
    }

    #[test]
    fn messages_with_two_meanings_are_refused() {
        let post = |fields: &str, why| {
            check(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"), Err(why));
        };
        let (length, chunked) = ("Content-Length: 3", "Transfer-Encoding: chunked");
        post(&format!("{length}\r\n{chunked}"), Ambiguity::LengthAndEncoding);
        post(&format!("{chunked}\r\nX: y\r\n{length}"), Ambiguity::LengthAndEncoding);
        post(&format!("{length}\r\n{length}"), Ambiguity::RepeatedLength);
        post(&format!("{chunked}\r\n{chunked}"), Ambiguity::Encoding);
        for value in ["", "+3", "-1", "3, 3", "0x3", "3 3", "18446744073709551616"] {
            post(&format!("Content-Length: {value}"), Ambiguity::MalformedLength);
        }
        for value in ["", "gzip", "gzip, chunked", "chunked, gzip", "xchunked", "chunked;x"] {
            post(&format!("Transfer-Encoding: {value}"), Ambiguity::Encoding);
        }
        check("GET /a#b HTTP/1.1\r\n\r\n", Err(Ambiguity::Target));
        check("GET /\u{e9} HTTP/1.1\r\n\r\n", Err(Ambiguity::Target));
    }

    #[test]
    fn chunks_follow_the_grammar() {
        let chunks = |chunks: &str| {
            let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            check(&format!("{head}{chunks}"), Err(Ambiguity::Chunk));
        };
        chunks("\r\n");
        chunks("x\r\n");
        chunks("-1\r\n");
        chunks("0x3\r\nabc\r\n");
        chunks("3\nabc\n");
        chunks("3\r\nabcd\r\n");
        chunks("1234567890abcdef\r\n");
    }

    #[test]
    fn what_follows_a_request_for_another_protocol_waits() {
        let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        check(&format!("{head}frames"), Ok(head.len()));
        let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
        check(&format!("{connect}bytes"), Ok(connect.len()));
        let mut guard = Guard::new();
        assert_eq!(guard.look(head.as_bytes()), Verdict::Pass);
        assert!(guard.is_undecided());
        guard.decide(false);
        assert!(guard.is_between_messages());
        assert_eq!(guard.look(head.as_bytes()), Verdict::Pass);
        guard.decide(true);
        assert_eq!(guard.look(b"\0\r\n#\n"), Verdict::Pass);
    }

    proptest::proptest! {
        #[test]
        fn survives_anything(parts: Vec<Vec<u8>>) {
            let mut guard = Guard::new();
            for part in parts {
                if let Verdict::Hold(good) | Verdict::Refuse(good, _) = guard.look(&part) {
                    proptest::prop_assert!(good <= part.len());
                }
            }
        }

        #[test]
        fn a_verdict_does_not_depend_on_how_bytes_are_cut(
            message in message(),
            cuts in proptest::collection::vec(1_usize..30, 0..20),
        ) {
            let whole = outcome([message.as_slice()]);
            let (mut pieces, mut rest) = (Vec::new(), message.as_slice());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            proptest::prop_assert_eq!(outcome(pieces), whole);
            proptest::prop_assert_eq!(outcome(message.chunks(1)), whole);
        }
    }

    /// What became of a stream: why it was refused, or how many bytes of it were let through
    /// before the rest was held.
    fn outcome<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Option<Ambiguity>, Option<usize>) {
        let (mut guard, mut passed) = (Guard::new(), 0);
        for piece in pieces {
            match guard.look(piece) {
                Verdict::Pass => passed += piece.len(),
                Verdict::Hold(good) if good < piece.len() => return (None, Some(passed + good)),
                Verdict::Hold(good) => passed += good,
                Verdict::Refuse(_, why) => return (Some(why), None),
            }
        }
        (None, None)
    }

    /// Parts of messages in any order, now and then something else.
    fn message() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::*;
        let parts = prop_oneof![
            8 => proptest::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST /a HTTP/1.1\r\n", "Content-Length: 3\r\n",
                "content-length:03\n", "Transfer-Encoding: chunked\r\n", "\r\n", "\n", "\r",
                "3\r\nabc\r\n", "3;x=y\r\nabc\r\n", "0\r\n\r\n", "abc", ": ", " ",
                "Upgrade: websocket\r\n", "CONNECT a:1 HTTP/1.1\r\n", "x: y\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(parts, 0..16).prop_map(|parts| parts.concat())
    }
}
