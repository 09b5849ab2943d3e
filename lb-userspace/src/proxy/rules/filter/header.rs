//! Changes of headers; a value without variables is built once and shared.

use hyper::http::{HeaderName, HeaderValue};

use super::super::{
    decision::HeaderChange,
    render::{Escape, render},
    view::View,
};
use crate::model::rule::{action::HeaderEdit, template::Template};

/// A change of a header.
#[derive(Debug)]
pub(in super::super) enum HeaderFilter {
    /// The same for each request.
    Fixed(HeaderChange),
    /// It gets this value and no other.
    Set(HeaderName, Template),
    /// One more line with this value.
    Add(HeaderName, Template),
}

impl HeaderFilter {
    pub(super) fn new(edit: HeaderEdit) -> Self {
        let fixed = |template: &Template| HeaderValue::from_str(template.constant()?).ok();
        match edit {
            HeaderEdit::Remove(name) => Self::Fixed(HeaderChange::Remove(name)),
            HeaderEdit::Set(name, template) => match fixed(&template) {
                Some(value) => Self::Fixed(HeaderChange::Set(name, value)),
                None => Self::Set(name, template),
            },
            HeaderEdit::Add(name, template) => match fixed(&template) {
                Some(value) => Self::Fixed(HeaderChange::Add(name, value)),
                None => Self::Add(name, template),
            },
        }
    }

    /// The change for this request.
    pub(super) fn change(&self, view: &View<'_>) -> HeaderChange {
        match self {
            Self::Fixed(change) => change.clone(),
            Self::Set(name, template) => HeaderChange::Set(name.clone(), value(template, view)),
            Self::Add(name, template) => HeaderChange::Add(name.clone(), value(template, view)),
        }
    }
}

/// A rendered value. Literals are checked when they are read and variables are escaped, so
/// it is a good one; should it not be, the header is empty and not what a client made up.
pub(super) fn value(template: &Template, view: &View<'_>) -> HeaderValue {
    let text = render(template, view, Escape::Header);
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
