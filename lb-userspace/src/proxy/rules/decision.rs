//! What comes out of an evaluation: how the request ends, and what changes on the way.

use std::{borrow::Cow, sync::Arc, time::Duration};

use hyper::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, uri::PathAndQuery},
};

use crate::model::{
    name::Name,
    rule::{
        action::{ErrorPage, Mirror, TimeoutKind},
        path::{AmbiguousPath, NormalPath},
    },
};

/// What the rules make of a request.
#[derive(Debug)]
pub struct Decision<'r> {
    /// How it ends.
    pub end: End<'r>,
    /// The number of the rule that ended it, from 0; none if none did.
    pub rule: Option<usize>,
    /// What changes.
    pub edits: Edits,
}

/// How a request ends.
#[derive(Debug)]
pub enum End<'r> {
    /// At the frontend's own backend: no rule ended it.
    Default,
    /// At this backend.
    Backend(&'r Name),
    /// With this answer: a redirect, a denial, a page.
    Answer(Answer),
    /// With a 400: it can not be judged safely, or an edit would make nonsense of it.
    Refuse(Refusal),
}

/// An answer of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its code.
    pub status: StatusCode,
    /// Its headers, `Location` and `Content-Type` among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body; none leaves it to error pages, or to the proxy.
    pub body: Option<Bytes>,
}

/// Why a request is refused with a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Servers disagree about its path.
    #[error(transparent)]
    Path(AmbiguousPath),
    /// A rewrite made a path with dot segments out of what the client sent.
    #[error("the rewritten path has dot segments")]
    Rewrite,
    /// A redirect needs the request's host, and there is no good one.
    #[error("the request has no host to redirect to")]
    Host,
}

impl Decision<'_> {
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self { end: End::Refuse(refusal), rule: None, edits: Edits::default() }
    }
}

/// What changes, accumulated over all rules that matched.
#[derive(Debug, Default)]
pub struct Edits {
    /// What the server is asked for, if it is not what the client asked for.
    pub(super) target: Option<Target>,
    /// Changes of the request's headers, in order.
    pub request_headers: Vec<HeaderChange>,
    /// Changes of the response's headers, in order; for answers of the proxy, too.
    pub response_headers: Vec<HeaderChange>,
    pub(super) timeouts: Vec<(TimeoutKind, Duration)>,
    /// Where it stands in the queue for a server: lower comes first.
    pub priority: i16,
    /// Copies to other backends.
    pub mirrors: Vec<Arc<Mirror>>,
    pub(super) error_pages: Vec<Arc<[ErrorPage]>>,
}

/// A path and a query, as they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) query: Option<String>,
}

/// A change of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange {
    /// It has this value and no other.
    Set(HeaderName, HeaderValue),
    /// One more line of it.
    Add(HeaderName, HeaderValue),
    /// No line of it.
    Remove(HeaderName),
}

impl HeaderChange {
    /// Makes the change.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Add(name, value) => {
                headers.append(name, value.clone());
            }
            Self::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

impl Edits {
    /// Nothing but error pages; of two for a code the last one counts.
    #[must_use]
    pub fn with_pages(pages: &[Arc<[ErrorPage]>]) -> Self {
        Self { error_pages: pages.to_vec(), ..Self::default() }
    }

    /// Nothing but what a path with dot segments makes necessary.
    pub(super) fn of(path: &NormalPath<'_>, query: Option<&str>) -> Self {
        let target = path.had_dots.then(|| Target::of(&path.clean, query));
        Self { target, ..Self::default() }
    }

    /// Path and query for the server; none to leave them as the client sent them.
    ///
    /// # Errors
    /// [`Refusal::Rewrite`]: rewrites made something that is no request target.
    pub fn path_and_query(&self) -> Result<Option<PathAndQuery>, Refusal> {
        let Some(Target { path, query }) = &self.target else { return Ok(None) };
        let text: Cow<'_, str> = match query {
            Some(query) => format!("{path}?{query}").into(),
            None => path.into(),
        };
        PathAndQuery::try_from(&*text).map(Some).map_err(|_| Refusal::Rewrite)
    }

    /// A timeout that a rule has set; the last one counts.
    #[must_use]
    pub fn timeout(&self, kind: TimeoutKind) -> Option<Duration> {
        let mut set = self.timeouts.iter().rev();
        set.find(|(known, _)| *known == kind).map(|(_, duration)| *duration)
    }

    /// The page that stands in for an answer of the proxy with this code; the last one
    /// counts.
    #[must_use]
    pub fn error_page(&self, status: StatusCode) -> Option<&ErrorPage> {
        let mut pages = self.error_pages.iter().rev().flat_map(|pages| pages.iter());
        pages.find(|page| page.status == status)
    }

    /// Makes the changes of the request's headers.
    pub fn apply_to_request(&self, headers: &mut HeaderMap) {
        self.request_headers.iter().for_each(|change| change.apply(headers));
    }

    /// Makes the changes of the response's headers.
    pub fn apply_to_response(&self, headers: &mut HeaderMap) {
        self.response_headers.iter().for_each(|change| change.apply(headers));
    }
}

impl Target {
    pub(super) fn of(clean: &str, query: Option<&str>) -> Self {
        Self { path: clean.to_owned(), query: query.map(str::to_owned) }
    }
}
