//! A typed walk over a YAML value that collects faults.
//!
//! [`Cursor`] is one value and where it stands; [`Entries`] is a mapping whose keys are
//! those of a [`Section`]. The walk knows no key by name: sections declare their keys
//! (`schema`), and this file holds a file against the declarations.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::{
    fault::{Located, Place, Refusal, Sink, did_you_mean, quoted, shorten},
    position::{Child, Mark, Node, join},
    schema::{Key, KeyInfo, Presence, Section, Shape},
};
use crate::model::name::Name;

/// One value of the file, or of a default.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) sink: &'a Sink,
    pub(super) value: &'a Value,
    pub(super) place: Place,
    node: Option<&'a Node>,
}

/// A mapping with the keys of a section.
pub(super) struct Entries<'a> {
    cursor: Cursor<'a>,
    mapping: Option<&'a Mapping>,
}

impl<'a> Cursor<'a> {
    /// The root of a file.
    pub(super) fn root(sink: &'a Sink, value: &'a Value, node: &'a Node) -> Self {
        let place = Place { path: String::new(), mark: Mark::START, written: None };
        Self { sink, value, place, node: Some(node) }
    }

    /// Notes a fault of this value; gives none, so that a decoder can return it.
    pub(super) fn reject<T>(&self, refusal: Refusal) -> Option<T> {
        self.sink.fault(&self.place, refusal);
        None
    }

    /// Notes that this value is of another kind than `expected` ("a duration").
    pub(super) fn wrong_type<T>(&self, expected: &str, hint: Option<String>) -> Option<T> {
        let message = format!("expected {expected}, got {}", self.kind());
        self.reject(Refusal { message, hint })
    }

    /// The value as text: a string, or if `bare` a number as it is written.
    pub(super) fn text(&self, bare: bool) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if bare => {
                Some(self.place.written.clone().unwrap_or_else(|| number.to_string()))
            }
            _ => None,
        }
    }

    /// What kind of value this is, for messages.
    pub(super) fn kind(&self) -> String {
        let written = self.place.written.as_deref().unwrap_or_default();
        match self.value {
            Value::Null => "nothing".into(),
            Value::Bool(_) => written.to_owned(),
            Value::Number(_) => format!("the number {}", shorten(written)),
            Value::String(text) => format!("the text {}", quoted(text)),
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) | Value::Tagged(_) => "a mapping".into(),
        }
    }

    /// The value as a mapping with the keys of `section`; unknown keys are faults.
    /// Nothing counts as an empty mapping: every key of it may be commented out.
    pub(super) fn entries(self, section: &Section) -> Option<Entries<'a>> {
        let mapping = match self.value {
            Value::Mapping(mapping) => Some(mapping),
            Value::Null => None,
            _ => return self.wrong_type("a mapping", Some(section.key_list())),
        };
        let entries = Entries { cursor: self, mapping };
        entries.refuse_unknown(section);
        Some(entries)
    }

    /// No entries at all, in place of a value that is not a mapping: for its defaults.
    pub(super) fn no_entries(self) -> Entries<'a> {
        Entries { cursor: self, mapping: None }
    }

    /// The value as a mapping from names to anything. Names that are not good are faults
    /// and left out.
    pub(super) fn named(&self) -> Option<BTreeMap<Name, Cursor<'a>>> {
        let mapping = match self.value {
            Value::Mapping(mapping) => mapping,
            Value::Null => return Some(BTreeMap::new()),
            _ => return self.wrong_type("a mapping from names to settings", None),
        };
        let mut named = BTreeMap::new();
        for (index, (key, value)) in mapping.iter().enumerate() {
            let Some((name, place)) = self.key_text(key, index) else { continue };
            match Name::new(name) {
                Ok(name) => {
                    let cursor = self.child(value, index, join(&self.place.path, name.as_str()));
                    named.insert(name, cursor);
                }
                Err(error) => self.sink.fault(&place, Refusal::new(error.to_string())),
            }
        }
        Some(named)
    }

    /// The value as a mapping from text to anything, in the order of the file.
    pub(super) fn pairs(&self) -> Option<Vec<(&'a str, Cursor<'a>)>> {
        let Value::Mapping(mapping) = self.value else {
            return self.wrong_type("a mapping", None);
        };
        let pair = |(index, (key, value))| {
            let (name, _) = self.key_text(key, index)?;
            Some((name, self.child(value, index, join(&self.place.path, name))))
        };
        Some(mapping.iter().enumerate().filter_map(pair).collect())
    }

    /// The items of a list; none if it is no list.
    pub(super) fn items(&self) -> Option<Vec<Cursor<'a>>> {
        let Value::Sequence(items) = self.value else { return None };
        let item =
            |(index, value)| self.child(value, index, format!("{}[{index}]", self.place.path));
        Some(items.iter().enumerate().map(item).collect())
    }

    fn child(&self, value: &'a Value, index: usize, path: String) -> Self {
        let node = self.position(index).map(|child| &child.node);
        let mark = node.map_or(self.place.mark, |node| node.mark);
        let written = node.and_then(|node| node.written.clone());
        Self { sink: self.sink, value, node, place: Place { path, mark, written } }
    }

    /// The text of a key and its place; other keys are faults.
    fn key_text(&self, key: &'a Value, index: usize) -> Option<(&'a str, Place)> {
        let mark = self.position(index).map_or(self.place.mark, |child| child.key);
        let place =
            |text: &str, written| Place { path: join(&self.place.path, text), mark, written };
        match key {
            Value::String(text) => Some((text, place(text, Some(text.clone())))),
            other => {
                let shown = serde_yaml::to_string(other).unwrap_or_default();
                let refusal = Refusal::new("a key is text")
                    .hint(format!("put it in quotes: \"{}\"", shown.trim_end()));
                self.sink.fault(&place(shown.trim_end(), None), refusal);
                None
            }
        }
    }

    fn position(&self, index: usize) -> Option<&'a Child> {
        self.node.and_then(|node| node.children.get(index))
    }
}

impl<'a> Entries<'a> {
    /// The value of a key: as given, or its default. None if it is at fault (which is
    /// noted) or if it is absent and has no default.
    pub(super) fn get<S: Shape>(&self, key: &Key<S>) -> Option<S::Output> {
        self.locate(key).map(|located| located.value)
    }

    /// The value of a key without a default, as far as it is given. None if it is at fault:
    /// one at fault is not one that is left out.
    pub(super) fn optional<S: Shape>(&self, key: &Key<S>) -> Option<Option<S::Output>> {
        let value = self.get(key);
        (value.is_some() || !self.has(key)).then_some(value)
    }

    /// As [`Self::get`], with the place.
    pub(super) fn locate<S: Shape>(&self, key: &Key<S>) -> Option<Located<S::Output>> {
        if let Some(cursor) = self.find(key.name) {
            let value = key.shape.decode(&cursor)?;
            return Some(Located { value, place: cursor.place });
        }
        let place = self.place_of(key.name);
        match key.presence {
            Presence::Optional(_) => None,
            Presence::Required(hint) => {
                self.cursor.sink.fault(&place, Refusal::new("is missing").hint(hint));
                None
            }
            Presence::Default(text) => {
                let value = serde_yaml::from_str(text).unwrap_or(Value::Null);
                let sink = self.cursor.sink;
                let cursor = Cursor { sink, value: &value, place, node: None };
                let value = key.shape.decode(&cursor)?;
                Some(Located { value, place: cursor.place })
            }
        }
    }

    /// Whether a key is given, good or not.
    pub(super) fn has(&self, key: &dyn KeyInfo) -> bool {
        self.find(key.name()).is_some()
    }

    /// Notes a fault of a key that is given or missing.
    pub(super) fn reject(&self, key: &dyn KeyInfo, refusal: Refusal) {
        self.cursor.sink.fault(&self.place_of(key.name()), refusal);
    }

    /// Notes a fault of a part of a key's value.
    pub(super) fn reject_at(&self, place: &Place, refusal: Refusal) {
        self.cursor.sink.fault(place, refusal);
    }

    /// Notes a warning about a key that is given or missing.
    pub(super) fn warn(&self, key: &dyn KeyInfo, refusal: Refusal) {
        self.cursor.sink.warn(&self.place_of(key.name()), refusal);
    }

    fn find(&self, name: &str) -> Option<Cursor<'a>> {
        let mut entries = self.mapping?.iter().enumerate();
        let (index, (_, value)) = entries.find(|(_, (key, _))| key.as_str() == Some(name))?;
        let path = join(&self.cursor.place.path, name);
        Some(self.cursor.child(value, index, path))
    }

    /// Where a key stands, or would stand.
    pub(super) fn place_of(&self, name: &str) -> Place {
        let path = join(&self.cursor.place.path, name);
        let mark = self.cursor.place.mark;
        self.find(name).map_or(Place { path, mark, written: None }, |cursor| cursor.place)
    }

    fn refuse_unknown(&self, section: &Section) {
        for (index, (key, _)) in self.mapping.into_iter().flatten().enumerate() {
            let Some((name, place)) = self.cursor.key_text(key, index) else { continue };
            if section.keys.iter().any(|known| known.name() == name) {
                continue;
            }
            let refusal = match section.unbuilt.iter().find(|unbuilt| unbuilt.name == name) {
                Some(unbuilt) => {
                    Refusal::new(format!("{} is not built in this version", quoted(name)))
                        .hint(unbuilt.hint)
                }
                None => {
                    let known = section.keys.iter().map(|key| key.name());
                    Refusal::new("unknown key").hint(match did_you_mean(name, known) {
                        Some(meant) => format!("did you mean {}?", quoted(meant)),
                        None => section.key_list(),
                    })
                }
            };
            self.cursor.sink.fault(&place, refusal);
        }
    }
}
