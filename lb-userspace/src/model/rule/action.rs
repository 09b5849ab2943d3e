//! Actions: what a rule changes, and how it ends the request.

use std::{sync::Arc, time::Duration};

use hyper::http::{HeaderName, HeaderValue, StatusCode};

use super::{
    super::name::Name,
    share::Split,
    template::{Template, VariableName},
    text::Regex,
};

/// Something a rule changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// A variable gets a value.
    Variable(VariableName, Template),
    /// The server gets another path or query.
    Rewrite(Rewrite),
    /// The server gets another header.
    RequestHeader(HeaderEdit),
    /// The client gets another header, whoever answers.
    ResponseHeader(HeaderEdit),
    /// Another timeout.
    Timeout(TimeoutKind, Duration),
    /// Another place in the queue for a server: lower comes first, 0 is usual.
    QueuePriority(i16),
    /// A copy goes to another backend.
    Mirror(Mirror),
    /// What the client gets in place of an answer of the proxy with one of these codes.
    ErrorPages(Arc<[ErrorPage]>),
}

/// A change of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// It has this value and no other.
    Set(HeaderName, Template),
    /// One more line of it.
    Add(HeaderName, Template),
    /// No line of it.
    Remove(HeaderName),
}

/// A change of what the server is asked for. Rewrites of several rules build on each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Rewrite {
    /// The whole path.
    Path(Template),
    /// `from` at the start of the path, by whole segments, becomes `to`.
    Prefix {
        /// Without a slash at the end, decoded.
        from: Box<[u8]>,
        /// Without a slash at the end, as it travels.
        to: Box<str>,
    },
    /// The first match in the path, as it travels, is replaced.
    PathRegex {
        /// What is looked for.
        regex: Regex,
        /// What stands there then; `$1` is a group.
        replacement: Box<str>,
    },
    /// The whole query; an empty one takes the question mark away.
    Query(Template),
    /// The first match in the query is replaced.
    QueryRegex {
        /// What is looked for.
        regex: Regex,
        /// What stands there then; `$1` is a group.
        replacement: Box<str>,
    },
}

/// A timeout that a rule may set for its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutKind {
    /// Silence of the client.
    Client,
    /// The request as a whole.
    Total,
    /// Connecting to a server.
    Connect,
    /// Silence of the server.
    Server,
    /// Waiting for a server with room.
    Queue,
    /// Silence of both sides of an upgraded connection.
    Tunnel,
}

/// A copy of requests for another backend, whose answers go nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it goes.
    pub backend: Name,
    /// Which share of the requests, in hundredths of a percent, 1 to 10,000.
    pub basis_points: u16,
    /// Most copies on their way at once from one worker; more are not made.
    pub max_concurrent: u32,
    /// Most bytes of a body; requests with a larger one are not copied, and with 0 none that has
    /// one.
    pub body_bytes: u32,
}

/// What a client gets in place of an answer of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// The code it stands in for, 400 to 599.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: HeaderValue,
    /// What is sent.
    pub body: Arc<[u8]>,
}

/// How a rule ends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// One backend serves it.
    Backend(Name),
    /// One of several backends serves it.
    Split(Split),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers.
    Respond(Respond),
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Where to.
    pub to: RedirectTo,
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTo {
    /// Here.
    Location(Template),
    /// This, and behind it path and query of the request.
    Prefix(Template),
    /// The request's own URL with other parts.
    Parts {
        /// `http` or `https`; none keeps it.
        scheme: Option<Scheme>,
        /// The host; none keeps it.
        host: Option<Template>,
        /// The port; none is that of the scheme.
        port: Option<u16>,
    },
}

/// A scheme of URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As URLs have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An answer of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// Its code, 200 to 599.
    pub status: StatusCode,
    /// Further headers.
    pub headers: Vec<(HeaderName, Template)>,
    /// What is sent; none leaves it to error pages, or to the proxy.
    pub content: Option<Content>,
}

/// A body and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// `Content-Type`.
    pub content_type: HeaderValue,
    /// The body.
    pub body: Body,
}

/// The body of an answer of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Bytes of a file.
    Fixed(Arc<[u8]>),
    /// A text; values of variables are escaped as the type of the content asks for.
    Template(Template),
}

/// Most bytes of a body that a rule answers with.
pub const MAX_BODY: usize = 1 << 20;
