//! Rules together with what they refer to: backends and named conditions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::fault::{Located, Place, Refusal, Sink, did_you_mean, quoted},
    condition::{NamedConditions, RawCondition},
    rule::{RawEdit, RawEnding, RawRule, RawRules},
    traffic::{RawBackends, RawMirror},
    warning,
};
use crate::model::{
    name::Name,
    rule::{
        MAX_RULES, Rule,
        action::{Edit, Ending, Mirror},
        condition::{Condition, NamedCondition, Test},
        share::{ShareBy, Split},
    },
};

/// Most tests of all rules of one frontend, named conditions written out.
const MAX_TOTAL: usize = 100_000;

/// A condition that was resolved, with what bounds need.
#[derive(Clone)]
struct Sized {
    condition: Condition,
    /// Tests in it, named conditions written out.
    size: usize,
    /// How deep it is nested, named conditions written out.
    height: usize,
}

/// A named condition on its way.
enum Progress {
    /// Not looked at.
    Raw(Located<Option<RawCondition>>),
    /// Being resolved: a reference to it is a circle.
    Open,
    /// Done; none if it is at fault.
    Done(Option<(Arc<NamedCondition>, usize, usize)>),
}

/// Resolves rules; remembers what they use.
pub(in super::super) struct Resolver<'a> {
    sink: &'a Sink,
    /// The names of all backends; none if they could not be read.
    backends: Option<BTreeSet<Name>>,
    conditions: BTreeMap<Name, Progress>,
    places: Vec<(Name, Place)>,
    used_backends: BTreeSet<Name>,
    used_conditions: BTreeSet<Name>,
}

impl<'a> Resolver<'a> {
    /// Resolves `conditions`, for rules to come.
    pub(in super::super) fn new(
        conditions: NamedConditions,
        backends: Option<BTreeSet<Name>>,
        sink: &'a Sink,
    ) -> Self {
        let places: Vec<(Name, Place)> =
            conditions.iter().map(|(name, raw)| (name.clone(), raw.place.clone())).collect();
        let conditions =
            conditions.into_iter().map(|(name, raw)| (name, Progress::Raw(raw))).collect();
        let (used_backends, used_conditions) = Default::default();
        let names = places.clone();
        let mut resolver =
            Self { sink, backends, conditions, places, used_backends, used_conditions };
        for (name, place) in names {
            resolver.named(&Located { value: name, place }, 0);
        }
        resolver
    }

    /// The rules of a frontend; none if one is at fault.
    pub(in super::super) fn rules(&mut self, raw: RawRules) -> Option<Vec<Rule>> {
        let count = raw.len();
        if let Some(first) = raw.get(MAX_RULES) {
            let message = format!("{count} rules are more than {MAX_RULES}");
            self.sink.fault(&first.place, Refusal::new(message));
            return None;
        }
        let mut total = 0_usize;
        let mut names: BTreeMap<Name, Place> = BTreeMap::new();
        let resolved: Vec<Option<(Rule, Place)>> = raw
            .into_iter()
            .map(|Located { value, place }| {
                let raw = value?;
                if let Some(name) = &raw.name {
                    self.judge_name(name, &place, &mut names);
                }
                let (rule, size) = self.rule(raw, &place)?;
                let before = total;
                total = total.saturating_add(size);
                if before <= MAX_TOTAL && total > MAX_TOTAL {
                    let message = format!("the rules so far have more than {MAX_TOTAL} tests");
                    let refusal = Refusal::new(message);
                    self.sink.fault(&place, refusal.hint("put values of one kind into one list"));
                }
                Some((rule, place))
            })
            .collect();
        let resolved: Vec<(Rule, Place)> = resolved.into_iter().collect::<Option<_>>()?;
        warning::judge(&resolved, self.sink);
        Some(resolved.into_iter().map(|(rule, _)| rule).collect())
    }

    /// Whether a rule or a condition names this backend.
    pub(in super::super) fn uses_backend(&self, name: &Name) -> bool {
        self.used_backends.contains(name)
    }

    /// Warns of named conditions that nothing uses.
    pub(in super::super) fn judge_unused(&self) {
        for (name, place) in
            self.places.iter().filter(|(name, _)| !self.used_conditions.contains(name))
        {
            let message = format!("no rule uses the condition {}", quoted(name.as_str()));
            self.sink.warn(place, Refusal::new(message));
        }
    }

    fn judge_name(&self, name: &Name, place: &Place, names: &mut BTreeMap<Name, Place>) {
        if let Some(first) = names.get(name) {
            let message = format!(
                "the name {} is given twice, first in line {}",
                quoted(name.as_str()),
                first.mark.line
            );
            self.sink.fault(place, Refusal::new(message).hint("logs tell rules by their names"));
        } else {
            names.insert(name.clone(), place.clone());
        }
    }

    fn rule(&mut self, raw: RawRule, place: &Place) -> Option<(Rule, usize)> {
        let condition = self.condition(raw.condition, place, 0);
        let edits: Vec<Option<Edit>> = raw.edits.into_iter().map(|edit| self.edit(edit?)).collect();
        let ending = raw.ending.map(|ending| match ending {
            Some(ending) => self.ending(ending).map(Some),
            None => Some(None),
        });
        let edits: Option<Vec<Edit>> = edits.into_iter().collect();
        let Sized { condition, size, .. } = condition?;
        if size > Condition::MAX_SIZE {
            let message = format!("its condition has more than {} tests", Condition::MAX_SIZE);
            let hint = "put values of one kind into one list";
            self.sink.fault(place, Refusal::new(message).hint(hint));
            return None;
        }
        let rule = Rule { name: raw.name, condition, edits: edits?, ending: ending?? };
        raw.has_good_name.then_some((rule, size))
    }

    fn edit(&mut self, raw: RawEdit) -> Option<Edit> {
        match raw {
            RawEdit::Ready(edit) => Some(edit),
            RawEdit::Mirror(RawMirror { backend, basis_points, max_concurrent, body_bytes }) => {
                let backend = self.backend(&backend)?;
                Some(Edit::Mirror(Mirror { backend, basis_points, max_concurrent, body_bytes }))
            }
        }
    }

    fn ending(&mut self, raw: RawEnding) -> Option<Ending> {
        let (backends, by, seed) = match raw {
            RawEnding::Ready(ending) => return Some(ending),
            RawEnding::Backends(backends, by, seed) => (backends, by, seed),
        };
        match backends {
            RawBackends::One(backend) => self.backend(&backend).map(Ending::Backend),
            RawBackends::Weighted(weights) => self.split(weights, by, seed),
        }
    }

    fn split(
        &mut self,
        weights: Vec<(Located<Name>, u32)>,
        by: ShareBy,
        seed: Box<str>,
    ) -> Option<Ending> {
        let weights: Vec<_> = weights
            .into_iter()
            .map(|(backend, weight)| Some((self.backend(&backend)?, weight)))
            .collect();
        let weights = weights.into_iter().collect::<Option<Vec<_>>>()?;
        Split::new(weights, by, seed).map(Ending::Split)
    }

    /// A backend that a rule names.
    fn backend(&mut self, reference: &Located<Name>) -> Option<Name> {
        let Some(backends) = &self.backends else { return Some(reference.value.clone()) };
        if !backends.contains(&reference.value) {
            let wanted = reference.value.as_str();
            let refusal = Refusal::new(format!("there is no backend {}", quoted(wanted)));
            let hint = match did_you_mean(wanted, backends.iter().map(Name::as_str)) {
                Some(meant) => format!("did you mean {}?", quoted(meant)),
                None => "backends are defined under `backends`".into(),
            };
            self.sink.fault(&reference.place, refusal.hint(hint));
            return None;
        }
        self.used_backends.insert(reference.value.clone());
        Some(reference.value.clone())
    }

    /// A condition that stands `depth` deep in others.
    fn condition(&mut self, raw: RawCondition, place: &Place, depth: usize) -> Option<Sized> {
        if depth > Condition::MAX_DEPTH {
            let message = format!("conditions are nested more than {} deep", Condition::MAX_DEPTH);
            self.sink.fault(place, Refusal::new(message));
            return None;
        }
        let leaf = |condition| Some(Sized { condition, size: 1, height: 1 });
        match raw {
            RawCondition::Broken => None,
            RawCondition::Test(test) => leaf(Condition::Test(test)),
            RawCondition::Servers(backend, at_least, at_most) => {
                let backend = self.backend(&backend)?;
                leaf(Condition::Test(Test::UsableServers { backend, at_least, at_most }))
            }
            RawCondition::All(parts) => self.parts(parts, place, depth, Condition::All),
            RawCondition::Any(parts) => self.parts(parts, place, depth, Condition::Any),
            RawCondition::Not(part) => {
                let Sized { condition, size, height } = self.condition(*part, place, depth + 1)?;
                let condition = Condition::Not(Box::new(condition));
                Some(Sized { condition, size, height: height + 1 })
            }
            RawCondition::Named(reference) => {
                self.used_conditions.insert(reference.value.clone());
                let (named, size, height) = self.named(&reference, depth)?;
                Some(Sized { condition: Condition::Named(named), size, height })
            }
        }
    }

    /// Several conditions; one alone stands for itself.
    fn parts(
        &mut self,
        parts: Vec<RawCondition>,
        place: &Place,
        depth: usize,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Option<Sized> {
        // A mapping with one key, or a list with one item, is no level of its own.
        let inner = depth + usize::from(parts.len() > 1);
        let parts: Vec<_> =
            parts.into_iter().map(|part| self.condition(part, place, inner)).collect();
        let mut parts = parts.into_iter().collect::<Option<Vec<Sized>>>()?;
        if parts.len() == 1 {
            return parts.pop();
        }
        let size = parts.iter().map(|part| part.size).fold(1, usize::saturating_add);
        let height = parts.iter().map(|part| part.height).max().unwrap_or(0) + 1;
        let condition = join(parts.into_iter().map(|part| part.condition).collect());
        Some(Sized { condition, size, height })
    }

    /// A named condition, resolved when it is first needed.
    fn named(
        &mut self,
        reference: &Located<Name>,
        depth: usize,
    ) -> Option<(Arc<NamedCondition>, usize, usize)> {
        let Some(progress) = self.conditions.get_mut(&reference.value) else {
            self.refuse_unknown(reference);
            return None;
        };
        let raw = match std::mem::replace(progress, Progress::Open) {
            Progress::Raw(raw) => raw,
            Progress::Open => {
                let message =
                    format!("the condition {} refers to itself", quoted(reference.value.as_str()));
                self.sink.fault(&reference.place, Refusal::new(message));
                return None;
            }
            Progress::Done(done) => {
                *progress = Progress::Done(done.clone());
                return done.filter(|(_, _, height)| self.fits(depth + height, &reference.place));
            }
        };
        let condition = raw.value.and_then(|value| self.condition(value, &raw.place, depth + 1));
        let condition = condition.filter(|sized| {
            let fits = sized.size <= Condition::MAX_SIZE;
            if !fits {
                let message = format!("it has more than {} tests", Condition::MAX_SIZE);
                let hint = "put values of one kind into one list";
                self.sink.fault(&raw.place, Refusal::new(message).hint(hint));
            }
            fits
        });
        let done = condition.map(|Sized { condition, size, height }| {
            let named = NamedCondition { name: reference.value.clone(), condition };
            (Arc::new(named), size, height + 1)
        });
        self.conditions.insert(reference.value.clone(), Progress::Done(done.clone()));
        done
    }

    fn fits(&self, depth: usize, place: &Place) -> bool {
        let fits = depth <= Condition::MAX_DEPTH + 1;
        if !fits {
            let message = format!("conditions are nested more than {} deep", Condition::MAX_DEPTH);
            self.sink.fault(place, Refusal::new(message));
        }
        fits
    }

    fn refuse_unknown(&self, reference: &Located<Name>) {
        let wanted = reference.value.as_str();
        let refusal = Refusal::new(format!("there is no condition {}", quoted(wanted)));
        let hint = match did_you_mean(wanted, self.conditions.keys().map(Name::as_str)) {
            Some(meant) => format!("did you mean {}?", quoted(meant)),
            None => "conditions are defined under `conditions`".into(),
        };
        self.sink.fault(&reference.place, refusal.hint(hint));
    }
}
