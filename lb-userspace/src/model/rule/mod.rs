//! The rules of an `http` frontend, as values: what a request must be (`condition`) and
//! what then happens to it (`action`).
//!
//! Rules are looked at in the order of the file. The first one that matches and *ends* the
//! request (a backend, a redirect, an answer) decides; everything that rules before it asked
//! for accumulates. Conditions see the request as the client sent it, with the path and the
//! host brought into one form ([`path`], [`host`]); a rewrite changes what the server gets,
//! not what later rules see. Only variables that a rule sets are seen by later ones.

pub mod action;
pub mod condition;
pub mod host;
pub mod networks;
pub mod path;
pub mod schedule;
pub mod share;
pub mod template;
pub mod text;

use std::{collections::BTreeSet, sync::Arc};

use self::{
    action::{Edit, Ending, ErrorPage},
    condition::{Condition, Test},
};
use super::name::Name;

/// One rule of a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name in logs; rules without one are known by their number.
    pub name: Option<Name>,
    /// Which requests it is for.
    pub condition: Condition,
    /// What it changes, in the order in which it is done.
    pub edits: Vec<Edit>,
    /// How it ends the request; none lets the next rules decide.
    pub ending: Option<Ending>,
}

impl Rule {
    /// Its error pages, if it is for every request.
    pub fn unconditional_pages(&self) -> impl Iterator<Item = Arc<[ErrorPage]>> {
        let is_for_all = matches!(&self.condition, Condition::All(all) if all.is_empty());
        self.edits.iter().filter(move |_| is_for_all).filter_map(|edit| match edit {
            Edit::ErrorPages(pages) => Some(Arc::clone(pages)),
            _ => None,
        })
    }

    /// Every backend that it names.
    #[must_use]
    pub fn backends(&self) -> BTreeSet<&Name> {
        let mut backends = BTreeSet::new();
        collect(&self.condition, &mut backends);
        backends.extend(self.edits.iter().filter_map(|edit| match edit {
            Edit::Mirror(mirror) => Some(&mirror.backend),
            _ => None,
        }));
        match &self.ending {
            Some(Ending::Backend(backend)) => {
                backends.insert(backend);
            }
            Some(Ending::Split(split)) => backends.extend(split.backends()),
            Some(Ending::Redirect(_) | Ending::Respond(_)) | None => {}
        }
        backends
    }
}

fn collect<'r>(condition: &'r Condition, backends: &mut BTreeSet<&'r Name>) {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => {
            parts.iter().for_each(|part| collect(part, backends));
        }
        Condition::Not(part) => collect(part, backends),
        Condition::Named(named) => collect(&named.condition, backends),
        Condition::Test(Test::UsableServers { backend, .. }) => {
            backends.insert(backend);
        }
        Condition::Test(_) => {}
    }
}

/// Most rules of one frontend.
pub const MAX_RULES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::{
        action::Mirror,
        share::{ShareBy, Split},
        *,
    };
    use crate::model::fixture::name;

    #[test]
    fn a_rule_tells_every_backend_it_names() {
        let servers = Test::UsableServers { backend: name("c"), at_least: 1, at_most: 2 };
        let mirror =
            Mirror { backend: name("m"), basis_points: 1, max_concurrent: 1, body_bytes: 0 };
        let weights = vec![(name("a"), 1), (name("b"), 0)];
        let rule = Rule {
            name: None,
            condition: Condition::Not(Box::new(Condition::Test(servers))),
            edits: vec![Edit::Mirror(mirror)],
            ending: Split::new(weights, ShareBy::Client, "".into()).map(Ending::Split),
        };
        let names: Vec<&str> = rule.backends().into_iter().map(Name::as_str).collect();
        assert_eq!(names, ["a", "b", "c", "m"]);
    }
}
