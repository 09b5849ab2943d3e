//! Cookies that bring a client back to its server: found in the request, which goes on
//! without them, and set in the response.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hyper::{
    HeaderMap,
    header::{COOKIE, HeaderValue, SET_COOKIE},
};

use super::exchange::Exchange;
use crate::{
    balance::{Lease, Member, cookie},
    model::balance::{CookieMode, Persistence},
    proxy::plan::BackendPlan,
};

/// The server that a request's cookies name. Whatever the balancer put into cookies is taken
/// out of them: servers see the application's alone.
pub(super) fn own_server(backend: &BackendPlan, fields: &mut HeaderMap) -> Option<Arc<Member>> {
    let rules = backend.settings.balancing.persistence.as_ref()?;
    let all = || fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let name = all().find_map(|field| cookie::name_in(field, rules))?;
    let own = backend.pool.by_cookie(name, unix_s());
    // HTTP/2 may bring a field for each cookie (RFC 9113, 8.2.3).
    let plain: Vec<HeaderValue> = all().filter_map(|field| without_ours(field, rules)).collect();
    fields.remove(COOKIE);
    for field in plain {
        fields.append(COOKIE, field);
    }
    own
}

fn without_ours(field: &[u8], rules: &Persistence) -> Option<HeaderValue> {
    let plain = match rules.mode {
        CookieMode::Insert => cookie::without(field, &rules.cookie)?,
        CookieMode::Prefix => cookie::without_prefix(field, &rules.cookie),
    };
    // A part of what was a value before is one.
    HeaderValue::from_bytes(&plain).ok()
}

/// Puts the server that answered into the response, unless the client knows it already.
pub(super) fn name_server(exchange: &Exchange, fields: &mut HeaderMap) {
    let Some(backend) = &exchange.backend else { return };
    let Some(rules) = &backend.settings.balancing.persistence else { return };
    let Some(server) = exchange.lease.as_ref().map(Lease::server) else { return };
    let Some(name) = backend.pool.cookie_of(server, unix_s()) else { return };
    match rules.mode {
        CookieMode::Insert => {
            let is_known = exchange.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, server));
            let field = HeaderValue::from_str(&cookie::inserted(rules, &name));
            if let Some(field) = field.ok().filter(|_| !is_known) {
                fields.append(SET_COOKIE, field);
            }
        }
        CookieMode::Prefix => {
            for field in fields.iter_mut().filter(|(name, _)| *name == SET_COOKIE).map(|(_, v)| v) {
                let prefixed = cookie::prefixed(field.as_bytes(), &rules.cookie, &name);
                if let Some(value) = prefixed.and_then(|v| HeaderValue::from_bytes(&v).ok()) {
                    *field = value;
                }
            }
        }
    }
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
