//! What is wrong with a configuration, and the place where it collects.
//!
//! Reading never stops at the first fault: everything that can be judged is judged, and
//! the operator gets the whole list.

use std::{cell::RefCell, fmt};

use serde::Serialize;

use super::position::Mark;
use crate::model::snapshot::Snapshot;

/// Longest value or message part quoted from the file, in characters.
const MAX_SHOWN: usize = 64;
/// Candidates looked at per word, so that a huge file can not make hints expensive.
const MAX_CANDIDATES: usize = 1024;

/// One thing wrong with a configuration file.
///
/// Displayed on one line: `pointsman.yaml:14: backends.pg.servers.pg2.weight: 300 is more
/// than 256 (hint: an integer from 0 to 256)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as it was named to the reader.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// The key path, such as `frontends.web.bind[0]`; empty for the file as a whole.
    pub path: String,
    /// The offending value as it is written, shortened; none if something is missing.
    pub value: Option<String>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// Every fault of a configuration, by line: at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults in the order of their lines; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }

    /// One fault alone.
    pub(super) fn one(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    /// One line a fault, without a final line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Something that is allowed but hardly meant. Displayed and serialised like a [`Fault`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Warning(pub Fault);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A configuration that is good, and what is odd about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub snapshot: Snapshot,
    /// What is hardly meant, by line.
    pub warnings: Vec<Warning>,
}

/// A place in the file and in the tree of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The key path.
    pub(super) path: String,
    /// Where it stands.
    pub(super) mark: Mark,
    /// The value as it is written, if it is a scalar.
    pub(super) written: Option<String>,
}

/// A value and where it was given, for judgements that need more than one key.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    /// The value.
    pub(super) value: T,
    /// Where it was given.
    pub(super) place: Place,
}

/// Why a text is not what it should be, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As [`Fault::message`].
    pub(super) message: String,
    /// As [`Fault::hint`].
    pub(super) hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Where faults and warnings collect while one file is read.
pub(super) struct Sink {
    file: String,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Warning>>,
}

impl Sink {
    /// An empty sink for a file of this name.
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), faults: RefCell::default(), warnings: RefCell::default() }
    }

    /// Notes a fault at a place.
    pub(super) fn fault(&self, place: &Place, refusal: Refusal) {
        self.faults.borrow_mut().push(self.describe(place, refusal));
    }

    /// Notes a warning at a place.
    pub(super) fn warn(&self, place: &Place, refusal: Refusal) {
        self.warnings.borrow_mut().push(Warning(self.describe(place, refusal)));
    }

    /// The result: the snapshot if nothing was wrong, or everything that was.
    pub(super) fn finish(self, snapshot: Option<Snapshot>) -> Result<Loaded, Faults> {
        let mut faults = self.faults.into_inner();
        let mut warnings = self.warnings.into_inner();
        match snapshot {
            Some(snapshot) if faults.is_empty() => {
                warnings.sort_by(|a, b| order(&a.0).cmp(&order(&b.0)));
                return Ok(Loaded { snapshot, warnings });
            }
            _ if faults.is_empty() => faults.push(Fault {
                file: self.file,
                line: 1,
                column: 1,
                path: String::new(),
                value: None,
                message: "the reader gave up without saying why; please report it".into(),
                hint: None,
            }),
            _ => {}
        }
        faults.sort_by(|a, b| order(a).cmp(&order(b)));
        faults.dedup();
        Err(Faults(faults))
    }

    fn describe(&self, place: &Place, refusal: Refusal) -> Fault {
        let Refusal { message, hint } = refusal;
        Fault {
            file: self.file.clone(),
            line: place.mark.line,
            column: place.mark.column,
            path: one_line(&place.path),
            value: place.written.as_deref().map(shorten),
            message: one_line(&message),
            hint: hint.as_deref().map(one_line),
        }
    }
}

/// A text with its control characters escaped: a fault is one line of a terminal.
fn one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escaped).collect()
}

fn order(fault: &Fault) -> (usize, usize, &str, &str) {
    (fault.line, fault.column, &fault.path, &fault.message)
}

/// A text in quotes for a message, shortened, control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shorten(text))
}

/// A text of at most [`MAX_SHOWN`] characters, and an ellipsis if it was longer.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The hint for a word that is not among the known ones: the one it looks like.
pub(super) fn did_you_mean<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(word);
    // A third of the letters may be wrong; a transposition is one mistake.
    let allowed = (wanted.chars().count() / 3).clamp(1, 4);
    known
        .take(MAX_CANDIDATES)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}
