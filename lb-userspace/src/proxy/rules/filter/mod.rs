//! Actions, compiled: edits of what passes, and endings. What never changes is built once.

mod header;
mod redirect;
mod respond;
mod rewrite;

use std::{sync::Arc, time::Duration};

use self::{header::HeaderFilter, respond::Responder};
use super::{
    decision::{Edits, End, Refusal},
    render::{Escape, render},
    view::View,
};
use crate::model::{
    name::Name,
    rule::{
        action::{self, Edit, ErrorPage, Mirror, Redirect, Rewrite, TimeoutKind},
        share::Split,
        template::{Template, VariableName},
    },
};

/// Something that changes.
#[derive(Debug)]
pub(super) enum Filter {
    Variable(VariableName, Template),
    Rewrite(Rewrite),
    Request(HeaderFilter),
    Response(HeaderFilter),
    Timeout(TimeoutKind, Duration),
    QueuePriority(i16),
    Mirror(Arc<Mirror>),
    ErrorPages(Arc<[ErrorPage]>),
}

impl Filter {
    pub(super) fn new(edit: &Edit) -> Self {
        match edit.clone() {
            Edit::Variable(name, value) => Self::Variable(name, value),
            Edit::Rewrite(rewrite) => Self::Rewrite(rewrite),
            Edit::RequestHeader(edit) => Self::Request(HeaderFilter::new(edit)),
            Edit::ResponseHeader(edit) => Self::Response(HeaderFilter::new(edit)),
            Edit::Timeout(kind, duration) => Self::Timeout(kind, duration),
            Edit::QueuePriority(priority) => Self::QueuePriority(priority),
            Edit::Mirror(mirror) => Self::Mirror(Arc::new(mirror)),
            Edit::ErrorPages(pages) => Self::ErrorPages(pages),
        }
    }

    /// Notes the change.
    pub(super) fn apply(&self, view: &mut View<'_>, edits: &mut Edits) -> Result<(), Refusal> {
        match self {
            Self::Variable(name, template) => {
                let value = render(template, view, Escape::Nothing);
                view.set_variable(name, value);
            }
            Self::Rewrite(rewrite) => rewrite::apply(rewrite, view, &mut edits.target)?,
            Self::Request(filter) => edits.request_headers.push(filter.change(view)),
            Self::Response(filter) => edits.response_headers.push(filter.change(view)),
            Self::Timeout(kind, duration) => edits.timeouts.push((*kind, *duration)),
            Self::QueuePriority(priority) => edits.priority = *priority,
            Self::Mirror(mirror) => {
                let share = u64::from(mirror.basis_points);
                if ((view.facts.random >> 32) * 10_000) >> 32 < share {
                    edits.mirrors.push(Arc::clone(mirror));
                }
            }
            Self::ErrorPages(pages) => edits.error_pages.push(Arc::clone(pages)),
        }
        Ok(())
    }
}

/// How a rule ends a request.
#[derive(Debug)]
pub(super) enum Ending {
    Backend(Name),
    Split(Split),
    Redirect(Redirect),
    Respond(Responder),
}

impl Ending {
    pub(super) fn new(ending: &action::Ending) -> Self {
        match ending.clone() {
            action::Ending::Backend(backend) => Self::Backend(backend),
            action::Ending::Split(split) => Self::Split(split),
            action::Ending::Redirect(redirect) => Self::Redirect(redirect),
            action::Ending::Respond(respond) => Self::Respond(Responder::new(respond)),
        }
    }

    /// The end of this request.
    pub(super) fn end(&self, view: &View<'_>) -> Result<End<'_>, Refusal> {
        Ok(match self {
            Self::Backend(backend) => End::Backend(backend),
            Self::Split(split) => End::Backend(split.pick(view.hash(&split.by, &split.seed))),
            Self::Redirect(redirect) => End::Answer(redirect::answer(redirect, view)?),
            Self::Respond(responder) => End::Answer(responder.answer(view)),
        })
    }
}
