//! The rules of a frontend, compiled: facts of a request in, a decision out.
//!
//! Rules are evaluated in order ([`model::rule`](crate::model::rule)). The index leaves out
//! rules that can not match because of the request's host or path; what it leaves in is
//! evaluated in full, so the outcome is that of evaluating every rule, and a thousand rules
//! for a thousand hosts or paths cost little more than ten.
//!
//! Pure: no I/O, no clock, no randomness. A request that no edit applies to costs no
//! allocation, unless its path or its host is not in normal form.
//!
//! | file | owns |
//! |---|---|
//! | `facts` | what is known of a request |
//! | `view` | the same as conditions and templates see it |
//! | `index`, `table` | which rules can match |
//! | `matcher/*` | conditions |
//! | `filter/*` | actions |
//! | `render` | templates to text, escaped for where it goes |
//! | `decision` | what comes out |

mod decision;
mod facts;
mod filter;
mod index;
mod matcher;
mod render;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    decision::{Answer, Decision, Edits, End, HeaderChange, Refusal},
    facts::{CertificateFacts, ConnectionTls, Facts},
};

use self::{
    filter::Filter,
    index::Index,
    matcher::{Compiler, Matcher},
    view::View,
};
use crate::model::rule::Rule;

/// The rules of one frontend, ready to be evaluated.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<CompiledRule>,
    index: Index,
}

#[derive(Debug)]
struct CompiledRule {
    matcher: Matcher,
    edits: Vec<Filter>,
    ending: Option<filter::Ending>,
}

impl RuleSet {
    /// Compiles `rules`, in their order.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let index = Index::new(rules.iter().map(|rule| &rule.condition));
        let mut compiler = Compiler::default();
        let compile = |rule: &Rule| CompiledRule {
            matcher: compiler.compile(&rule.condition),
            edits: rule.edits.iter().map(Filter::new).collect(),
            ending: rule.ending.as_ref().map(filter::Ending::new),
        };
        Self { rules: rules.iter().map(compile).collect(), index }
    }

    /// Whether there are no rules: nothing has to be evaluated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules make of a request.
    #[must_use]
    pub fn evaluate(&self, facts: &Facts<'_>) -> Decision<'_> {
        match View::new(facts) {
            Ok(mut view) => {
                let candidates = self.index.candidates(&view.host, &view.path.matched);
                self.run(&mut view, candidates)
            }
            Err(ambiguous) => Decision::refused(Refusal::Path(ambiguous)),
        }
    }

    /// The same rule by rule: what [`Self::evaluate`] must agree with.
    #[cfg(test)]
    fn evaluate_every_rule(&self, facts: &Facts<'_>) -> Decision<'_> {
        match View::new(facts) {
            Ok(mut view) => self.run(&mut view, 0..self.rules.len()),
            Err(ambiguous) => Decision::refused(Refusal::Path(ambiguous)),
        }
    }

    fn run<'r>(
        &'r self,
        view: &mut View<'_>,
        candidates: impl Iterator<Item = usize>,
    ) -> Decision<'r> {
        let mut edits = Edits::of(&view.path, view.facts.query);
        for number in candidates {
            let rule = &self.rules[number];
            if !rule.matcher.matches(view) {
                continue;
            }
            for edit in &rule.edits {
                if let Err(refusal) = edit.apply(view, &mut edits) {
                    return Decision { end: End::Refuse(refusal), rule: Some(number), edits };
                }
            }
            if let Some(ending) = &rule.ending {
                let end = ending.end(view).unwrap_or_else(End::Refuse);
                return Decision { end, rule: Some(number), edits };
            }
        }
        Decision { end: End::Default, rule: None, edits }
    }
}
