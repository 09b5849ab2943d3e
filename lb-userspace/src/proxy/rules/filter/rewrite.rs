//! Rewrites of path and query. They work on the clean form of the path, in which an encoded
//! slash is no separator, and build on what earlier ones have made.

use percent_encoding::percent_decode_str;

use super::super::{
    decision::{Refusal, Target},
    render::{Escape, escape_url, render},
    view::View,
};
use crate::model::rule::{action::Rewrite, path::NormalPath};

/// Rewrites what the server is asked for.
pub(super) fn apply(
    rewrite: &Rewrite,
    view: &View<'_>,
    target: &mut Option<Target>,
) -> Result<(), Refusal> {
    let target = target.get_or_insert_with(|| Target::of(&view.path.clean, view.facts.query));
    match rewrite {
        Rewrite::Path(template) => {
            set_path(target, escape_url(&render(template, view, Escape::Url)))?;
        }
        Rewrite::Prefix { from, to } => {
            if let Some(rest) = strip(&target.path, from) {
                let path = format!("{to}{rest}");
                set_path(target, path)?;
            }
        }
        Rewrite::PathRegex { regex, replacement } => {
            if let Some(path) = regex.replace(target.path.as_bytes(), replacement) {
                set_path(target, escape_url(&path))?;
            }
        }
        Rewrite::Query(template) => {
            let query = escape_url(&render(template, view, Escape::Url));
            target.query = (!query.is_empty()).then_some(query);
        }
        Rewrite::QueryRegex { regex, replacement } => {
            let query = target.query.as_deref().unwrap_or_default();
            if let Some(query) = regex.replace(query.as_bytes(), replacement) {
                let query = escape_url(&query);
                target.query = (!query.is_empty()).then_some(query);
            }
        }
    }
    Ok(())
}

/// Takes a new path, unless something in it leads upwards.
fn set_path(target: &mut Target, path: String) -> Result<(), Refusal> {
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let path = path.replace('?', "%3F");
    let is_safe = NormalPath::new(&path).is_ok_and(|normal| !normal.had_dots);
    if !is_safe {
        return Err(Refusal::Rewrite);
    }
    target.path = path;
    Ok(())
}

/// What follows a prefix (decoded, without a slash at the end), by whole segments.
fn strip<'p>(path: &'p str, prefix: &[u8]) -> Option<&'p str> {
    let segments = prefix.iter().filter(|byte| **byte == b'/').count();
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let end = slashes.nth(segments).unwrap_or(path.len());
    let (start, rest) = path.split_at(end);
    percent_decode_str(start).eq(prefix.iter().copied()).then_some(rest)
}
