//! `if`, and `conditions`: what a request must be. Keys are ANDed, lists inside a key ORed.

use super::{
    super::{
        decode::{Cursor, Entries},
        fault::{Located, Refusal},
        schema::{Key, Named, NamedItems, Presence, Section, Shape, Text},
    },
    client, connection, request,
    shape::{OneOf, Placed},
};
use crate::{
    config::frontend::backend_name,
    model::{name::Name, rule::condition::Test},
};

/// A condition as given.
#[derive(Clone, Debug)]
pub(in super::super) enum RawCondition {
    All(Vec<RawCondition>),
    Any(Vec<RawCondition>),
    Not(Box<RawCondition>),
    /// The name of an entry of `conditions`.
    Named(Located<Name>),
    Test(Test),
    /// The name of a backend and how many of its servers, at least and at most.
    Servers(Located<Name>, u32, u32),
    /// Something that is at fault, which is noted.
    Broken,
}

/// What [`CONDITIONS`] reads.
pub(in super::super) type NamedConditions = NamedItems<RawCondition>;

/// `conditions`.
pub(in super::super) static CONDITIONS: Key<Named<ConditionShape>> = Key {
    name: "conditions",
    shape: Named { item: ConditionShape },
    presence: Presence::Default("{}"),
    doc: "Conditions with names, for `condition` in rules.",
};

/// `if`.
pub(super) static IF: Key<IfShape> = Key {
    name: "if",
    shape: IfShape,
    presence: Presence::Optional("every request"),
    doc: "Which requests the rule is for.",
};

static SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if",
    doc: "What a request must be: all keys that are given must hold, and of a list in a key, \
          one value. Conditions see the request as the client sent it, whatever earlier rules \
          rewrite, save for the headers that say who the client is (see `trusted_proxies`).\n\n\
          **Paths** are compared percent-decoded, with dot segments resolved and slashes \
          merged, so that `//admin/`, `/%61dmin/`, `/./admin/`, `/x/../admin/` and \
          `/admin%2F` are all `/admin/`; case counts. Requests whose path servers read in \
          different ways are answered with 400: dot segments together with encoded slashes or \
          backslashes (`/x/..%2fadmin/`) or with parameters (`/..;/`), and `%00`. A path with \
          dot segments is forwarded resolved. **Hosts** are compared without port and \
          trailing dot; case does not count. **Regular expressions** have the \
          [syntax](https://docs.rs/regex/latest/regex/#syntax) of the `regex` crate, match \
          anywhere unless anchored with `^` and `$`, and are bounded in size. Texts are \
          compared with their case.",
    keys: &[
        &request::PATH,
        &request::PATH_PREFIX,
        &request::PATH_SUFFIX,
        &request::PATH_CONTAINS,
        &request::PATH_REGEX,
        &request::HOST,
        &request::HOST_SUFFIX,
        &request::HOST_WILDCARD,
        &request::HOST_REGEX,
        &request::METHOD,
        &request::HEADER,
        &request::HEADER_PRESENT,
        &request::HEADER_PREFIX,
        &request::HEADER_SUFFIX,
        &request::HEADER_CONTAINS,
        &request::HEADER_REGEX,
        &request::QUERY,
        &request::QUERY_PRESENT,
        &request::QUERY_REGEX,
        &request::COOKIE,
        &request::COOKIE_PRESENT,
        &request::COOKIE_REGEX,
        &request::VARIABLE,
        &request::VARIABLE_REGEX,
        &request::VERSION,
        &request::WEBSOCKET,
        &connection::SOURCE,
        &connection::SOURCE_FILE,
        &connection::DESTINATION_PORT,
        &connection::TLS,
        &connection::SNI,
        &connection::SNI_SUFFIX,
        &connection::SNI_WILDCARD,
        &connection::SNI_REGEX,
        &connection::CLIENT_CERTIFICATE,
        &client::TIME,
        &client::PERCENTAGE,
        &client::USABLE_SERVERS,
        &ALL,
        &ANY,
        &NOT,
        &CONDITION,
    ],
    unbuilt: &[],
};

static ALL: Key<ConditionList> = Key {
    name: "all",
    shape: ConditionList,
    presence: Presence::Optional("nothing more"),
    doc: "All of these must hold.",
};

static ANY: Key<ConditionList> = Key {
    name: "any",
    shape: ConditionList,
    presence: Presence::Optional("nothing more"),
    doc: "One of these must hold.",
};

static NOT: Key<OneOf<ConditionShape>> = Key {
    name: "not",
    shape: OneOf { item: ConditionShape },
    presence: Presence::Optional("nothing more"),
    doc: "This must not hold; of a list, none.",
};

static CONDITION: Key<OneOf<Placed<Text<Name>>>> = Key {
    name: "condition",
    shape: OneOf { item: Placed(Text { what: "a name under `conditions`", parse: backend_name }) },
    presence: Presence::Optional("nothing more"),
    doc: "A condition of this name must hold; of a list, one.",
};

/// A condition without its own section in the manual: its keys are those of `if`, which
/// would stand in itself.
pub(in super::super) struct ConditionShape;

/// A condition with its section.
pub(super) struct IfShape;

/// A list of conditions.
struct ConditionList;

impl Shape for ConditionShape {
    type Output = RawCondition;

    fn describe(&self) -> String {
        "mapping with the keys of [`if`](#frontendsnamerulesnif)".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawCondition> {
        Some(decode(&cursor.clone().entries(&SECTION)?))
    }
}

impl Shape for IfShape {
    type Output = RawCondition;

    fn describe(&self) -> String {
        "mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawCondition> {
        ConditionShape.decode(cursor)
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&SECTION)
    }
}

impl Shape for ConditionList {
    type Output = Vec<RawCondition>;

    fn describe(&self) -> String {
        "list of mappings with the keys of [`if`](#frontendsnamerulesnif)".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Vec<RawCondition>> {
        let Some(items) = cursor.items() else {
            return cursor.wrong_type("a list of conditions", None);
        };
        if items.is_empty() {
            return cursor.reject(Refusal::new("is an empty list: nothing is meant"));
        }
        let read = |item: &Cursor<'_>| ConditionShape.decode(item).unwrap_or(RawCondition::Broken);
        Some(items.iter().map(read).collect())
    }
}

/// The keys of a condition while they are read: what is at fault is broken, not left out.
pub(super) struct Parts<'e, 'a> {
    pub(super) entries: &'e Entries<'a>,
    list: Vec<RawCondition>,
}

impl<'e, 'a> Parts<'e, 'a> {
    /// Nothing read yet.
    pub(super) const fn new(entries: &'e Entries<'a>) -> Self {
        Self { entries, list: Vec::new() }
    }

    /// Adds something that was read.
    pub(super) fn push(&mut self, part: RawCondition) {
        self.list.push(part);
    }

    /// All of it.
    pub(super) fn finish(self) -> RawCondition {
        RawCondition::All(self.list)
    }

    /// Reads a key and adds what `make` makes of it.
    pub(super) fn add<S: Shape>(
        &mut self,
        key: &'static Key<S>,
        make: impl FnOnce(S::Output) -> RawCondition,
    ) {
        if self.entries.has(key) {
            self.list.push(self.entries.get(key).map_or(RawCondition::Broken, make));
        }
    }

    /// As [`Self::add`] for a key whose value is a test, if all of it is good.
    pub(super) fn test<S: Shape>(
        &mut self,
        key: &'static Key<S>,
        make: impl FnOnce(S::Output) -> Option<Test>,
    ) {
        self.add(key, |value| make(value).map_or(RawCondition::Broken, RawCondition::Test));
    }
}

fn decode(entries: &Entries<'_>) -> RawCondition {
    let mut parts = Parts::new(entries);
    request::decode(&mut parts);
    connection::decode(&mut parts);
    client::decode(&mut parts);
    parts.add(&ALL, RawCondition::All);
    parts.add(&ANY, RawCondition::Any);
    let one = |read: Option<RawCondition>| read.unwrap_or(RawCondition::Broken);
    parts.add(&NOT, |list| {
        let list = list.into_iter().map(one).collect();
        RawCondition::Not(Box::new(RawCondition::Any(list)))
    });
    parts.add(&CONDITION, |names| {
        let named =
            |name: Option<Located<Name>>| name.map_or(RawCondition::Broken, RawCondition::Named);
        RawCondition::Any(names.into_iter().map(named).collect())
    });
    parts.finish()
}
