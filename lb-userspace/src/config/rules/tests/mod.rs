//! What the reader of rules promises: what is given comes out, faults and warnings read
//! well, nothing makes it panic.

mod faults;
mod hostile;
mod values;
mod warnings;

use super::{CONDITIONS, RULES, Resolver};
use crate::{
    config::{decode::Cursor, fault::Sink, position, schema::Section},
    model::{fixture, rule::Rule},
};

static ROOT: Section = Section { path: "", doc: "", keys: &[&CONDITIONS, &RULES], unbuilt: &[] };

/// Rules with the lines of warnings, or the lines of faults, of a text with `rules` and
/// `conditions`; the backends are `api`, `web` and `shadow`.
fn read(yaml: &str) -> Result<(Vec<Rule>, Vec<String>), Vec<String>> {
    let sink = Sink::new("c");
    let rules = resolve(yaml, &sink);
    let snapshot = rules.as_ref().map(|_| fixture::snapshot(&[]));
    match sink.finish(snapshot) {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(|warning| line(&warning.0)).collect();
            Ok((rules.expect("there are no faults"), warnings))
        }
        Err(faults) => Err(faults.as_slice().iter().map(line).collect()),
    }
}

fn resolve(yaml: &str, sink: &Sink) -> Option<Vec<Rule>> {
    let root = position::read(yaml, sink)?;
    let value = serde_yaml::from_str(yaml).ok()?;
    let entries = Cursor::root(sink, &value, &root).entries(&ROOT)?;
    let (conditions, rules) = (entries.get(&CONDITIONS), entries.get(&RULES));
    let backends = ["api", "web", "shadow"].map(fixture::name).into_iter().collect();
    let mut resolver = Resolver::new(conditions?, Some(backends), sink);
    let rules = resolver.rules(rules?);
    resolver.judge_unused();
    rules
}

/// A fault as the operator reads it, without the file's name.
fn line(fault: &crate::config::Fault) -> String {
    let line = fault.to_string();
    line.strip_prefix("c:").unwrap_or(&line).to_owned()
}

/// The rules of a good text.
#[track_caller]
fn rules(yaml: &str) -> Vec<Rule> {
    match read(yaml) {
        Ok((rules, _)) => rules,
        Err(faults) => panic!("{yaml}\n{}", faults.join("\n")),
    }
}

/// The one rule with these keys.
#[track_caller]
fn rule(keys: &str) -> Rule {
    rules(&format!("rules:\n  - {{{keys}}}\n")).pop().unwrap()
}
