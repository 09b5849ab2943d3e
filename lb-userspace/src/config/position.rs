//! Where every key and value stands in a YAML text, and the faults of its form.
//!
//! `serde_yaml` says what the values are but not where; the events of `saphyr-parser`
//! say where. This file turns the events into a tree of positions parallel to the tree of
//! values, and refuses what a configuration does not need and an attacker could use:
//! anchors, aliases, merge keys, tags, more than one document, deep nesting, keys given
//! twice. It must not judge values. YAML 1.2.2: <https://yaml.org/spec/1.2.2/>.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::fault::{Place, Refusal, Sink, quoted, shorten};

/// Deepest nesting of mappings and lists; the deepest value of a configuration is at six.
const MAX_DEPTH: usize = 32;

/// A position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Line, from 1.
    pub(super) line: usize,
    /// Column, from 1, in characters.
    pub(super) column: usize,
}

impl Mark {
    /// The beginning of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    fn of(span: &Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// A value's position and those of its parts.
#[derive(Debug)]
pub(super) struct Node {
    /// Where a fault of this value is best shown: a scalar itself, or the key of a
    /// mapping, a list or nothing at all.
    pub(super) mark: Mark,
    /// A scalar as it is written, quotes taken off.
    pub(super) written: Option<String>,
    /// The entries of a mapping or the items of a list, in the order of the file.
    pub(super) children: Vec<Child>,
    plain: bool,
}

/// An entry of a mapping or an item of a list.
#[derive(Debug)]
pub(super) struct Child {
    /// Where the key stands; of an item, where the item does.
    pub(super) key: Mark,
    /// The value.
    pub(super) node: Node,
}

impl Node {
    /// No value is written: `key:` with nothing behind it, or `~`.
    pub(super) fn is_nothing(&self) -> bool {
        self.plain && matches!(self.written.as_deref(), Some("" | "~" | "null"))
    }
}

/// Reads the positions of a text. None if its form is at fault; the faults are in `sink`.
pub(super) fn read(text: &str, sink: &Sink) -> Option<Node> {
    let mut builder = Builder { sink, frames: Vec::new(), root: None, sound: true };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if !builder.take(event, &span) {
                    return None;
                }
            }
            Err(error) => {
                builder.syntax(text, &error);
                return None;
            }
        }
    }
    match builder.root {
        None => {
            sink.fault(&start(), Refusal::new("the file is empty").hint(EMPTY_HINT));
            None
        }
        Some(root) if root.is_nothing() => {
            sink.fault(&start(), Refusal::new("the file is empty").hint(EMPTY_HINT));
            None
        }
        Some(root) => builder.sound.then_some(root),
    }
}

const EMPTY_HINT: &str = "configs/minimal.yaml is a configuration to start from";

/// The place of the file as a whole.
pub(super) fn start() -> Place {
    Place { path: String::new(), mark: Mark::START, written: None }
}

/// A key path one level down. Names are at most 63 characters; what is cut off is no name.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = shorten(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

struct Builder<'a> {
    sink: &'a Sink,
    frames: Vec<Frame>,
    root: Option<Node>,
    sound: bool,
}

/// A mapping or list that is still open.
struct Frame {
    node: Node,
    path: String,
    /// Of a mapping: its keys so far, and the one that waits for its value.
    keys: Option<Keys>,
}

#[derive(Default)]
struct Keys {
    seen: HashMap<String, Mark>,
    waiting: Option<(Mark, String)>,
}

impl Builder<'_> {
    /// Takes one event; false if reading on makes no sense.
    fn take(&mut self, event: Event<'_>, span: &Span) -> bool {
        let mark = Mark::of(span);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                let refusal = Refusal::new("a second YAML document starts here")
                    .hint("a configuration is one document; remove the `---`");
                self.fault_at(mark, refusal);
                return false;
            }
            Event::Alias(_) => {
                self.refuse_reference(mark);
                self.complete(scalar(mark, String::new(), true));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_properties(mark, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                self.complete(scalar(mark, text.into_owned(), plain));
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_properties(mark, anchor, tag.is_some());
                return self.open(mark, None);
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_properties(mark, anchor, tag.is_some());
                return self.open(mark, Some(Keys::default()));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    self.complete(frame.node);
                }
            }
            _ => {}
        }
        true
    }

    fn open(&mut self, mark: Mark, keys: Option<Keys>) -> bool {
        if self.frames.len() >= MAX_DEPTH {
            let refusal = Refusal::new(format!("nested more than {MAX_DEPTH} levels deep"));
            self.fault_at(mark, refusal);
            return false;
        }
        let path = self.path();
        let node = Node { mark, written: None, children: Vec::new(), plain: false };
        self.frames.push(Frame { node, path, keys });
        true
    }

    /// Puts a finished value where it belongs: root, item, key or value of a key.
    fn complete(&mut self, mut node: Node) {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return;
        };
        let Some(keys) = &mut frame.keys else {
            frame.node.children.push(Child { key: node.mark, node });
            return;
        };
        if let Some((key, _)) = keys.waiting.take() {
            if node.written.as_deref().is_none_or(str::is_empty) {
                node.mark = key;
            }
            frame.node.children.push(Child { key, node });
            return;
        }
        let mark = node.mark;
        let Some(text) = node.written else {
            keys.waiting = Some((mark, "?".into()));
            let refusal = Refusal::new("a key is text, not a list or a mapping")
                .hint("put quotes around text that starts with '[' or '{'");
            self.fault_at(mark, refusal);
            return;
        };
        let first = keys.seen.insert(text.clone(), mark);
        keys.waiting = Some((mark, text.clone()));
        if text == "<<" && node.plain {
            self.refuse_reference(mark);
        } else if let Some(first) = first {
            let message = format!("{} is given twice, first in line {}", quoted(&text), first.line);
            self.fault_at(mark, Refusal::new(message).hint("keep one of the two"));
        }
    }

    fn refuse_properties(&mut self, mark: Mark, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse_reference(mark);
        }
        if tagged {
            let refusal = Refusal::new("YAML tags are not used in a configuration")
                .hint("remove the word that starts with '!'");
            self.fault_at(mark, refusal);
        }
    }

    fn refuse_reference(&mut self, mark: Mark) {
        let refusal = Refusal::new("YAML anchors, aliases and merge keys are not used")
            .hint("write the value out, or give it once under `defaults`");
        self.fault_at(mark, refusal);
    }

    fn syntax(&mut self, text: &str, error: &ScanError) {
        let line = error.marker().line().max(1);
        let mark = Mark { line, column: error.marker().col() + 1 };
        let written = text.lines().nth(line - 1).unwrap_or_default();
        let mut refusal = Refusal::new(format!("not valid YAML: {}", error.info()));
        if written.trim_start_matches(' ').starts_with('\t') {
            refusal = refusal.hint("indent with spaces, not with tabs");
        } else if written.contains("[:") || written.contains("]:") {
            refusal = refusal.hint("put IPv6 addresses in quotes: \"[2001:db8::1]:53\"");
        }
        let place = Place { path: self.path(), mark, written: Some(written.trim().to_owned()) };
        self.sink.fault(&place, refusal);
    }

    fn fault_at(&mut self, mark: Mark, refusal: Refusal) {
        self.sound = false;
        let place = Place { path: self.path(), mark, written: None };
        self.sink.fault(&place, refusal);
    }

    /// The path of the value that comes next.
    fn path(&self) -> String {
        let Some(frame) = self.frames.last() else { return String::new() };
        match &frame.keys {
            None => format!("{}[{}]", frame.path, frame.node.children.len()),
            Some(Keys { waiting: Some((_, key)), .. }) => join(&frame.path, key),
            Some(_) => frame.path.clone(),
        }
    }
}

fn scalar(mark: Mark, text: String, plain: bool) -> Node {
    Node { mark, written: Some(text), children: Vec::new(), plain }
}
