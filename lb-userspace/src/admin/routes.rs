//! Reads HTTP requests of the admin interface, without I/O: method, target and body in, an
//! [`ApiRequest`] or a [`Refusal`] out.
//!
//! Status codes follow RFC 9110: 400 for what can not be read, 403 for changes over a
//! read-only listener, 404 and 405 for what is not there, each with a hint.

use hyper::{Method, StatusCode};

use super::{
    access::{self, AccessOrder, LimitsOrder},
    api::{ErrorView, FlowQuery, ServerSet},
    blocks,
    command::{BlockOrder, UnblockOrder},
    trace::{self, TraceOrder},
};
use crate::model::{name::Name, state::ServerId};

/// A request that made sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiRequest {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/flows`
    Flows(FlowQuery),
    /// `GET /v1/drops`
    Drops,
    /// `GET /metrics`, `HEAD /metrics`
    Metrics,
    /// `POST /v1/servers/{backend}/{server}`
    SetServer(ServerId, ServerSet),
    /// `GET /v1/blocks`
    Blocks,
    /// `POST /v1/block`
    Block(BlockOrder),
    /// `POST /v1/unblock`
    Unblock(UnblockOrder),
    /// `GET /v1/access`
    Access,
    /// `POST /v1/access`
    SetAccess(AccessOrder),
    /// `POST /v1/limits`
    SetLimits(LimitsOrder),
    /// `POST /v1/trace`
    Trace(TraceOrder),
    /// `POST /v1/reload`
    Reload,
}

/// What a listener lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything: the unix socket.
    ReadWrite,
    /// Only requests that change nothing: TCP.
    ReadOnly,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code of the answer.
    pub status: StatusCode,
    /// Body of the answer.
    pub body: ErrorView,
    /// Value of the `Allow` header of a 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal without an `Allow` header.
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, body: ErrorView { error: error.into(), hint: hint.into() }, allow: None }
    }
}

/// The path of the server for [`ApiRequest::SetServer`].
#[must_use]
pub fn server_path(backend: &str, server: &str) -> String {
    format!("/v1/servers/{backend}/{server}")
}

/// Reads one request.
///
/// # Errors
/// A [`Refusal`] that says what is wrong and what to do.
pub fn read(
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
    access: Access,
) -> Result<ApiRequest, Refusal> {
    let route = Route::of(path, method).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("there is nothing at {path}"),
            "there are GET /metrics, /v1/status, /v1/flows, /v1/drops, /v1/blocks, /v1/access and POST \
             /v1/reload, /v1/block, /v1/unblock, /v1/access, /v1/limits, /v1/trace, \
             /v1/servers/BACKEND/SERVER",
        )
    })?;
    let allowed = route.method();
    // What answers GET to machines that ask for nothing else answers HEAD too.
    let is_head = matches!(route, Route::Metrics) && *method == Method::HEAD;
    if *method != allowed && !is_head {
        let mut refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{path} does not answer {method}"),
            format!("use {}", route.allow()),
        );
        refusal.allow = Some(route.allow());
        return Err(refusal);
    }
    if allowed != Method::GET && access == Access::ReadOnly {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this listener answers read-only requests",
            "send changes to the unix socket (admin.socket)",
        ));
    }
    match route {
        Route::Status => Ok(ApiRequest::Status),
        Route::Drops => Ok(ApiRequest::Drops),
        Route::Metrics => Ok(ApiRequest::Metrics),
        Route::Reload => Ok(ApiRequest::Reload),
        Route::Blocks => Ok(ApiRequest::Blocks),
        Route::Block => blocks::read_block(body).map(ApiRequest::Block),
        Route::Unblock => blocks::read_unblock(body).map(ApiRequest::Unblock),
        Route::Access => Ok(ApiRequest::Access),
        Route::SetAccess => access::read_access(body).map(ApiRequest::SetAccess),
        Route::SetLimits => access::read_limits(body).map(ApiRequest::SetLimits),
        Route::Trace => trace::read_trace(body).map(ApiRequest::Trace),
        Route::Flows => read_flow_query(query.unwrap_or_default()).map(ApiRequest::Flows),
        Route::Server(backend, server) => {
            let id = (read_name("backend", backend)?, read_name("server", server)?);
            read_server_set(body).map(|set| ApiRequest::SetServer(id, set))
        }
    }
}

enum Route<'a> {
    Status,
    Flows,
    Drops,
    Metrics,
    Reload,
    Blocks,
    Block,
    Unblock,
    Access,
    SetAccess,
    SetLimits,
    Trace,
    Server(&'a str, &'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str, method: &Method) -> Option<Self> {
        if path == "/metrics" {
            return Some(Self::Metrics);
        }
        match path.strip_prefix("/v1/")? {
            "status" => Some(Self::Status),
            "flows" => Some(Self::Flows),
            "drops" => Some(Self::Drops),
            "reload" => Some(Self::Reload),
            "blocks" => Some(Self::Blocks),
            "block" => Some(Self::Block),
            "unblock" => Some(Self::Unblock),
            "access" if *method == Method::POST => Some(Self::SetAccess),
            "access" => Some(Self::Access),
            "limits" => Some(Self::SetLimits),
            "trace" => Some(Self::Trace),
            other => {
                let (backend, server) = other.strip_prefix("servers/")?.split_once('/')?;
                (!server.contains('/')).then_some(Self::Server(backend, server))
            }
        }
    }

    fn method(&self) -> Method {
        match self {
            Self::Status
            | Self::Flows
            | Self::Drops
            | Self::Metrics
            | Self::Blocks
            | Self::Access => Method::GET,
            Self::Reload
            | Self::Block
            | Self::Unblock
            | Self::SetAccess
            | Self::SetLimits
            | Self::Trace
            | Self::Server(..) => Method::POST,
        }
    }

    /// The methods that the path answers, as `Allow` has them.
    fn allow(&self) -> &'static str {
        match self {
            Self::Access | Self::SetAccess => "GET, POST",
            Self::Metrics => "GET, HEAD",
            other if other.method() == Method::GET => "GET",
            _ => "POST",
        }
    }
}

pub(super) fn read_name(what: &str, text: &str) -> Result<Name, Refusal> {
    Name::new(text).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("'{text}' can not be the name of a {what}: {error}"),
            "use the names of the configuration, as GET /v1/status shows them",
        )
    })
}

fn read_flow_query(query: &str) -> Result<FlowQuery, Refusal> {
    let hint = format!(
        "the query takes limit (1 to {}), frontend, server, client, vip, state, protocol, port, \
         sort (age, idle, bytes, packets) and reverse",
        FlowQuery::MAX_LIMIT
    );
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error, hint.as_str());
    let query: FlowQuery = serde_urlencoded::from_str(query)
        .map_err(|error| bad(format!("can not read the query '{query}': {error}")))?;
    match query.limit {
        Some(limit) if !(1..=FlowQuery::MAX_LIMIT).contains(&limit) => {
            Err(bad(format!("limit is {limit}")))
        }
        _ => Ok(query),
    }
}

fn read_server_set(body: &[u8]) -> Result<ServerSet, Refusal> {
    let bad = |error: String| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            error,
            r#"send a JSON object such as {"state": "drain"} (ready, drain, maint) or {"weight": 50} (0 to 256)"#,
        )
    };
    let set: ServerSet = serde_json::from_slice(body)
        .map_err(|error| bad(format!("can not read the body: {error}")))?;
    match set {
        ServerSet { state: None, weight: None } => Err(bad("the body asks for nothing".into())),
        ServerSet { weight: Some(weight), .. } if weight > ServerSet::MAX_WEIGHT => {
            Err(bad(format!("weight is {weight}, at most {}", ServerSet::MAX_WEIGHT)))
        }
        set => Ok(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::AdminState;

    fn check(method: &Method, target: &str, body: &str, expected: &Result<ApiRequest, u16>) {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let got = read(method, path, query, body.as_bytes(), Access::ReadWrite);
        if let Err(refusal) = &got {
            assert!(!refusal.body.error.is_empty() && !refusal.body.hint.is_empty());
        }
        assert_eq!(&got.map_err(|refusal| refusal.status.as_u16()), expected, "{method} {target}");
    }

    fn server(backend: &str, server: &str) -> ServerId {
        (Name::new(backend).unwrap(), Name::new(server).unwrap())
    }

    #[test]
    fn every_route_is_read() {
        check(&Method::GET, "/v1/status", "", &Ok(ApiRequest::Status));
        check(&Method::GET, "/v1/drops", "", &Ok(ApiRequest::Drops));
        check(&Method::GET, "/metrics", "", &Ok(ApiRequest::Metrics));
        check(&Method::HEAD, "/metrics?x=y", "", &Ok(ApiRequest::Metrics));
        check(&Method::POST, "/v1/reload", "", &Ok(ApiRequest::Reload));
        check(&Method::GET, "/v1/flows", "", &Ok(ApiRequest::Flows(FlowQuery::default())));
        let query = FlowQuery {
            limit: Some(7),
            frontend: Some("postgres".into()),
            server: Some("pg/pg1".into()),
            ..FlowQuery::default()
        };
        check(
            &Method::GET,
            "/v1/flows?limit=7&frontend=postgres&server=pg%2Fpg1",
            "",
            &Ok(ApiRequest::Flows(query)),
        );
        let set = ServerSet { state: Some(AdminState::Maint), weight: Some(0) };
        check(
            &Method::POST,
            "/v1/servers/pg/pg1",
            r#"{"state": "maint", "weight": 0}"#,
            &Ok(ApiRequest::SetServer(server("pg", "pg1"), set)),
        );
    }

    #[test]
    fn what_is_not_there_is_404() {
        for target in
            ["/", "/v1", "/v1/", "/v1/status/", "/v2/status", "/v1/servers/pg", "*", "/metrics/"]
        {
            check(&Method::GET, target, "", &Err(404));
        }
        check(&Method::POST, "/v1/servers/a/b/c", "{}", &Err(404));
    }

    #[test]
    fn a_wrong_method_is_405_and_says_which_is_right() {
        check(&Method::POST, "/v1/status", "", &Err(405));
        check(&Method::DELETE, "/v1/servers/pg/pg1", "", &Err(405));
        check(&Method::GET, "/v1/reload", "", &Err(405));
        let refusal =
            read(&Method::PUT, "/v1/flows", None, b"", Access::ReadWrite).expect_err("is refused");
        assert_eq!(refusal.allow, Some("GET"));
        let refusal = read(&Method::DELETE, "/v1/access", None, b"", Access::ReadWrite);
        assert_eq!(refusal.expect_err("is refused").allow, Some("GET, POST"));
        let refusal = read(&Method::POST, "/metrics", None, b"", Access::ReadOnly);
        assert_eq!(refusal.expect_err("is refused").allow, Some("GET, HEAD"));
    }

    #[test]
    fn a_bad_body_or_query_is_400() {
        for body in [
            "",
            "{}",
            "[]",
            "{",
            r#"{"state": "up"}"#,
            r#"{"weight": 257}"#,
            r#"{"weight": -1}"#,
            r#"{"wieght": 1}"#,
        ] {
            check(&Method::POST, "/v1/servers/pg/pg1", body, &Err(400));
        }
        check(&Method::POST, "/v1/servers/pg/-x", r#"{"weight": 1}"#, &Err(400));
        for query in ["limit=0", "limit=100001", "limit=x", "limti=5", "state=open", "port=65536"] {
            check(&Method::GET, &format!("/v1/flows?{query}"), "", &Err(400));
        }
    }

    #[test]
    fn a_read_only_listener_refuses_changes() {
        let refusal =
            read(&Method::POST, "/v1/reload", None, b"", Access::ReadOnly).expect_err("is refused");
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        for path in ["/v1/access", "/v1/limits", "/v1/trace"] {
            let refusal = read(&Method::POST, path, None, b"{}", Access::ReadOnly);
            assert_eq!(refusal.expect_err("is refused").status, StatusCode::FORBIDDEN, "{path}");
        }
        assert!(read(&Method::GET, "/v1/access", None, b"", Access::ReadOnly).is_ok());
        assert!(read(&Method::GET, "/v1/status", None, b"", Access::ReadOnly).is_ok());
    }
}
