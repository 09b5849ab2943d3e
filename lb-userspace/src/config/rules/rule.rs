//! `rules[N]`: one rule, as given.

use super::{
    super::{
        decode::Entries,
        fault::{Refusal, quoted},
        schema::{Key, KeyInfo, List, ListItems, Nested, Presence, Section, Text},
    },
    client::{ByShape, SEED_DOC},
    condition::{IF, RawCondition},
    header,
    redirect::REDIRECT,
    request::variable_name,
    respond::{DENY, ERROR_PAGES, RETURN},
    rewrite::REWRITE,
    shape::{ByName, all},
    traffic::{BACKEND, MIRROR, QUEUE_PRIORITY, RawBackends, RawMirror, SET_TIMEOUT, priority},
};
use crate::{
    config::frontend::backend_name,
    model::{
        name::Name,
        rule::{
            action::{Edit, Ending},
            share::ShareBy,
            template::{Template, VariableName},
        },
    },
};

/// A rule as given; none in place of parts that are at fault.
#[derive(Clone, Debug)]
pub(in super::super) struct RawRule {
    pub(super) name: Option<Name>,
    /// Whether `name` is as it should be.
    pub(super) has_good_name: bool,
    pub(super) condition: RawCondition,
    pub(super) edits: Vec<Option<RawEdit>>,
    /// None inside: no ending.
    pub(super) ending: Option<Option<RawEnding>>,
}

/// An edit before references are judged.
#[derive(Clone, Debug)]
pub(super) enum RawEdit {
    Ready(Edit),
    Mirror(RawMirror),
}

/// An ending before references are judged.
#[derive(Clone, Debug)]
pub(super) enum RawEnding {
    Ready(Ending),
    Backends(RawBackends, ShareBy, Box<str>),
}

/// `rules`.
pub(in super::super) static RULES: Key<List<Nested<RawRule>>> = Key {
    name: "rules",
    shape: List { item: Nested { section: &SECTION, decode } },
    presence: Presence::Default("[]"),
    doc: "`mode: http`: what happens to which requests, in this order. The first rule that \
          matches and ends the request decides; what matching rules before it change, counts.",
};

/// What [`RULES`] reads.
pub(in super::super) type RawRules = ListItems<RawRule>;

static SECTION: Section = Section {
    path: "frontends.NAME.rules[N]",
    doc: "A rule: which requests it is for and what happens to them. `backend`, `redirect`, \
          `deny` and `return` end a request; a rule has at most one of them. The other actions \
          are done in the order of this table, and the next rules are looked at.\n\n\
          **Texts with variables**: `${NAME}` stands for the value of a variable, \
          `${NAME|TEXT}` for `TEXT` where it has none, `$$` for a dollar sign. The variables \
          are `client.address`, `client.port`, `local.address`, `local.port` (where the client \
          connected to), `request.id`, `request.method`, `request.scheme`, `request.host`, \
          `request.path`, `request.query`, `request.uri` (path and query), `request.version`, \
          `request.header.NAME`, `request.cookie.NAME`, `request.query.NAME`, `tls.sni`, \
          `tls.version`, `tls.cipher`, `tls.alpn`, `tls.client.subject`, \
          `tls.client.common_name`, `tls.client.issuer`, `tls.client.serial`, \
          `tls.client.fingerprint`, `tls.client.dns_name`, and `variable.NAME`, which \
          `set_variable` sets. In headers, control characters are percent-encoded. All \
          variables of one text bring in up to 8 KiB.",
    keys: &[
        &NAME,
        &IF,
        &SET_VARIABLE,
        &REWRITE,
        &header::REMOVE_REQUEST,
        &header::SET_REQUEST,
        &header::ADD_REQUEST,
        &header::REMOVE_RESPONSE,
        &header::SET_RESPONSE,
        &header::ADD_RESPONSE,
        &SET_TIMEOUT,
        &QUEUE_PRIORITY,
        &MIRROR,
        &ERROR_PAGES,
        &BACKEND,
        &SPLIT_BY,
        &SEED,
        &REDIRECT,
        &DENY,
        &RETURN,
    ],
    unbuilt: &[],
};

static NAME: Key<Text<Name>> = Key {
    name: "name",
    shape: Text { what: "a name", parse: backend_name },
    presence: Presence::Optional("its number"),
    doc: "A name for logs.",
};

static SET_VARIABLE: Key<ByName<VariableName, Text<Template>>> = Key {
    name: "set_variable",
    shape: ByName {
        of: "variable names",
        name: variable_name,
        item: Text { what: "a text with variables", parse: header::template },
    },
    presence: Presence::Optional("none"),
    doc: "Variables for later rules: `{tenant: \"${request.header.x-tenant}\"}` is read as \
          `${variable.tenant}`.",
};

static SPLIT_BY: Key<ByShape> = Key {
    name: "split_by",
    shape: ByShape,
    presence: Presence::Default("client"),
    doc: "With weights in `backend`: what stands for the client, as `by` of \
          [`percentage`](#frontendsnamerulesnifpercentage).",
};

static SEED: Key<Text<Box<str>>> = Key {
    name: "seed",
    shape: Text { what: "a text", parse: |text| Ok(text.into()) },
    presence: Presence::Default("\"\""),
    doc: SEED_DOC,
};

fn decode(entries: &Entries<'_>) -> Option<RawRule> {
    let name = entries.get(&NAME);
    let has_good_name = name.is_some() || !entries.has(&NAME);
    let condition = match entries.get(&IF) {
        Some(condition) => condition,
        None if entries.has(&IF) => RawCondition::Broken,
        None => RawCondition::All(Vec::new()),
    };
    let edits = decode_edits(entries);
    let ending = decode_ending(entries);
    if edits.is_empty() && matches!(ending, Some(None)) {
        let refusal = Refusal::new("is missing: the rule does nothing");
        entries.reject(&BACKEND, refusal.hint("add `backend`, `deny` or another action"));
        return None;
    }
    Some(RawRule { name, has_good_name, condition, edits, ending })
}

fn decode_edits(entries: &Entries<'_>) -> Vec<Option<RawEdit>> {
    let mut edits = Vec::new();
    if entries.has(&SET_VARIABLE) {
        match entries.get(&SET_VARIABLE).and_then(all) {
            Some(pairs) => {
                edits
                    .extend(pairs.into_iter().map(|(name, text)| Some(Edit::Variable(name, text))));
            }
            None => edits.push(None),
        }
    }
    if entries.has(&REWRITE) {
        match entries.get(&REWRITE) {
            Some(rewrites) => {
                edits.extend(rewrites.into_iter().map(|one| Some(Edit::Rewrite(one))));
            }
            None => edits.push(None),
        }
    }
    header::decode(entries, &mut edits);
    if entries.has(&QUEUE_PRIORITY) {
        edits.push(entries.get(&QUEUE_PRIORITY).map(|given| Edit::QueuePriority(priority(given))));
    }
    if entries.has(&SET_TIMEOUT) {
        match entries.get(&SET_TIMEOUT) {
            Some(set) => {
                edits.extend(set.into_iter().map(|(kind, time)| Some(Edit::Timeout(kind, time))));
            }
            None => edits.push(None),
        }
    }
    let mut edits: Vec<_> = edits.into_iter().map(|edit| edit.map(RawEdit::Ready)).collect();
    if entries.has(&MIRROR) {
        edits.push(entries.get(&MIRROR).map(RawEdit::Mirror));
    }
    if entries.has(&ERROR_PAGES) {
        let pages = entries.get(&ERROR_PAGES);
        let pages = pages.and_then(|list| all(list.into_iter().map(|item| item.value).collect()));
        let pages = pages.map(|pages| Edit::ErrorPages(pages.concat().into()));
        edits.push(pages.map(RawEdit::Ready));
    }
    edits
}

fn decode_ending(entries: &Entries<'_>) -> Option<Option<RawEnding>> {
    let keys: [&'static dyn KeyInfo; 4] = [&BACKEND, &REDIRECT, &DENY, &RETURN];
    let given: Vec<_> = keys.into_iter().filter(|key| entries.has(*key)).collect();
    let (split_by, seed) = (entries.get(&SPLIT_BY), entries.get(&SEED));
    let backends = entries.get(&BACKEND);
    let redirect = entries.get(&REDIRECT).map(Ending::Redirect);
    let respond = [entries.get(&DENY), entries.get(&RETURN)];
    if let [first, rest @ ..] = &*given {
        for key in rest {
            let message = format!("ends the request, as {} does", quoted(first.name()));
            entries.reject(*key, Refusal::new(message).hint("keep one of the two"));
        }
    }
    let is_split = matches!(backends, Some(RawBackends::Weighted(_)));
    for key in [&SPLIT_BY as &dyn KeyInfo, &SEED] {
        if entries.has(key) && !is_split && (backends.is_some() || !entries.has(&BACKEND)) {
            let refusal = Refusal::new("needs weights in `backend`");
            entries.reject(key, refusal.hint("backend: {blue: 95, green: 5}"));
        }
    }
    if given.is_empty() {
        return Some(None);
    }
    let backends = match backends {
        Some(backends) => Some(RawEnding::Backends(backends, split_by?, seed?)),
        None => None,
    };
    let respond = respond.into_iter().flatten().next().map(Ending::Respond);
    backends.or(redirect.or(respond).map(RawEnding::Ready)).map(Some)
}
