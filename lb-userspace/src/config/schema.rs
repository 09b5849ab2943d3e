//! How keys are declared: one definition feeds the decoder, the hints and the manual.
//!
//! A section of the file is a [`Section`] of [`Key`]s, each a `static` next to the code
//! that uses it. A key's [`Shape`] says what its value looks like, both to the decoder and
//! to the reader of `docs/configuration.md`; its default is YAML text that the same
//! decoder reads, so the manual can not disagree with the code.

use std::{collections::BTreeMap, fmt};

use super::{
    decode::{Cursor, Entries},
    fault::{Located, Refusal, did_you_mean, quoted, shorten},
};
use crate::model::name::Name;

/// What values of a key look like and how they are read.
pub(super) trait Shape: Sync {
    /// The value after reading.
    type Output;

    /// The shape in a few words, Markdown.
    fn describe(&self) -> String;

    /// Reads a value. None if it is at fault; the fault is noted with the cursor.
    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output>;

    /// The section that documents the parts of the value, if it has parts.
    fn section(&self) -> Option<&'static Section> {
        None
    }
}

/// A key of a section.
pub(super) struct Key<S> {
    pub(super) name: &'static str,
    pub(super) shape: S,
    pub(super) presence: Presence,
    /// One or two sentences for the manual.
    pub(super) doc: &'static str,
}

/// What happens if a key is absent.
#[derive(Clone, Copy)]
pub(super) enum Presence {
    /// A fault, with this hint.
    Required(&'static str),
    /// This YAML text takes its place.
    Default(&'static str),
    /// What that means, for the manual.
    Optional(&'static str),
}

/// A mapping with a fixed set of keys.
pub(super) struct Section {
    /// Its key path, with `NAME` for names; empty for the file itself.
    pub(super) path: &'static str,
    /// What it is, for the manual.
    pub(super) doc: &'static str,
    pub(super) keys: &'static [&'static dyn KeyInfo],
    /// Keys of the vocabulary that this version does not have.
    pub(super) unbuilt: &'static [Unbuilt],
}

/// A word of the vocabulary that this version does not have.
pub(super) struct Unbuilt {
    pub(super) name: &'static str,
    /// What to do instead.
    pub(super) hint: &'static str,
}

impl Section {
    /// The hint that lists the keys.
    pub(super) fn key_list(&self) -> String {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name()).collect();
        format!("its keys are {}", names.join(", "))
    }
}

/// A [`Key`] without its type, for lists and the manual.
pub(super) trait KeyInfo: Sync {
    fn name(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn presence(&self) -> Presence;
    fn describe(&self) -> String;
    fn section(&self) -> Option<&'static Section>;
}

impl<S: Shape> KeyInfo for Key<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn presence(&self) -> Presence {
        self.presence
    }

    fn describe(&self) -> String {
        self.shape.describe()
    }

    fn section(&self) -> Option<&'static Section> {
        self.shape.section()
    }
}

/// `true` or `false`.
pub(super) struct Bool;

impl Shape for Bool {
    type Output = bool;

    fn describe(&self) -> String {
        "`true` or `false`".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<bool> {
        match cursor.value.as_bool() {
            Some(value) => Some(value),
            None => cursor.wrong_type("true or false", None),
        }
    }
}

/// An integer in a range, inclusive.
pub(super) struct Integer<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T> Shape for Integer<T>
where
    T: Copy + Sync + fmt::Display + Into<u64> + TryFrom<u64>,
{
    type Output = T;

    fn describe(&self) -> String {
        format!("integer from {} to {}", self.min, self.max)
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<T> {
        let expected = format!("an {}", self.describe());
        let serde_yaml::Value::Number(number) = cursor.value else {
            return cursor.wrong_type(&expected, None);
        };
        let written = shorten(&cursor.text(true).unwrap_or_default());
        let refuse = |message| cursor.reject(Refusal::new(message).hint(expected.clone()));
        match number.as_u64() {
            Some(value) if value < self.min.into() => {
                refuse(format!("{written} is less than {}", self.min))
            }
            Some(value) if value <= self.max.into() => T::try_from(value).ok(),
            Some(_) => refuse(format!("{written} is more than {}", self.max)),
            None if number.is_i64() => refuse(format!("{written} is less than {}", self.min)),
            None => refuse(format!("{written} is not an integer")),
        }
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
    /// Words of the vocabulary that this version does not have.
    pub(super) unbuilt: &'static [Unbuilt],
    /// What is said of those: "is not built in this version".
    pub(super) unbuilt_message: &'static str,
}

impl<T> Choice<T> {
    /// A choice in which every word works.
    pub(super) const fn of(words: &'static [(&'static str, T)]) -> Self {
        Self { words, unbuilt: &[], unbuilt_message: "" }
    }
}

impl<T: Copy + Sync> Shape for Choice<T> {
    type Output = T;

    fn describe(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|(word, _)| format!("`{word}`")).collect();
        words.join(", ")
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<T> {
        let all = || {
            let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
            words.join(", ")
        };
        let serde_yaml::Value::String(text) = cursor.value else {
            return cursor.wrong_type(&format!("one of {}", all()), None);
        };
        if let Some((_, value)) = self.words.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        if let Some(unbuilt) = self.unbuilt.iter().find(|unbuilt| unbuilt.name == text) {
            let message = format!("{} {}", quoted(text), self.unbuilt_message);
            return cursor.reject(Refusal::new(message).hint(unbuilt.hint));
        }
        let choices = match self.words {
            [(only, _)] => format!("{only}, the only choice"),
            _ => format!("one of {}", all()),
        };
        let mut refusal = Refusal::new(format!("{} is not {choices}", quoted(text)));
        if let Some(meant) = did_you_mean(text, self.words.iter().map(|(word, _)| *word)) {
            refusal = refusal.hint(format!("did you mean {}?", quoted(meant)));
        }
        cursor.reject(refusal)
    }
}

/// A text that a function reads.
pub(super) struct Text<T> {
    /// With its article: "an absolute path".
    pub(super) what: &'static str,
    pub(super) parse: fn(&str) -> Result<T, Refusal>,
}

impl<T> Shape for Text<T> {
    type Output = T;

    fn describe(&self) -> String {
        let article = |what: &'static str| what.strip_prefix("a ").or(what.strip_prefix("an "));
        article(self.what).unwrap_or(self.what).to_owned()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<T> {
        let Some(text) = cursor.text(false) else {
            let hint = match (cursor.text(true), cursor.value.as_bool()) {
                (Some(number), _) => Some(format!("put it in quotes: {}", quoted(&number))),
                (None, Some(word)) => Some(format!("put it in quotes: \"{word}\"")),
                (None, None) => None,
            };
            return cursor.wrong_type(self.what, hint);
        };
        match (self.parse)(&text) {
            Ok(value) => Some(value),
            Err(refusal) => cursor.reject(refusal),
        }
    }
}

/// A list.
pub(super) struct List<S> {
    pub(super) item: S,
}

/// What [`List`] reads: none in place of an item that is at fault.
pub(super) type ListItems<T> = Vec<Located<Option<T>>>;

impl<S: Shape> Shape for List<S> {
    type Output = ListItems<S::Output>;

    fn describe(&self) -> String {
        format!("list: {}", self.item.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let Some(items) = cursor.items() else {
            let hint = cursor.text(true).map(|text| format!("write [{}]", quoted(&text)));
            return cursor.wrong_type("a list", hint);
        };
        let decode = |item: Cursor<'_>| {
            let value = self.item.decode(&item);
            Located { value, place: item.place }
        };
        Some(items.into_iter().map(decode).collect())
    }

    fn section(&self) -> Option<&'static Section> {
        self.item.section()
    }
}

/// A mapping with the keys of a section.
pub(super) struct Nested<T> {
    pub(super) section: &'static Section,
    pub(super) decode: fn(&Entries<'_>) -> Option<T>,
}

impl<T> Shape for Nested<T> {
    type Output = T;

    fn describe(&self) -> String {
        "mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<T> {
        (self.decode)(&cursor.clone().entries(self.section)?)
    }

    fn section(&self) -> Option<&'static Section> {
        Some(self.section)
    }
}

/// A mapping from names to a shape. A name whose value is at fault maps to none, so that
/// references to it are not faults too.
pub(super) struct Named<S> {
    pub(super) item: S,
}

/// What [`Named`] reads.
pub(super) type NamedItems<T> = BTreeMap<Name, Located<Option<T>>>;

impl<S: Shape> Shape for Named<S> {
    type Output = NamedItems<S::Output>;

    fn describe(&self) -> String {
        format!("mapping from names: {}", self.item.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let decode = |(name, item): (Name, Cursor<'_>)| {
            let value = self.item.decode(&item);
            (name, Located { value, place: item.place })
        };
        Some(cursor.named()?.into_iter().map(decode).collect())
    }

    fn section(&self) -> Option<&'static Section> {
        self.item.section()
    }
}
