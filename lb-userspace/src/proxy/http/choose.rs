//! Which server gets a request, and the wait for one with room.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, StatusCode, Uri,
    header::{COOKIE, HOST},
};

use super::{exchange::Exchange, respond::Failure};
use crate::{
    balance::{Lease, PickError, PickFacts, Picked, cookie, key},
    model::{
        balance::{Balance, HashKey},
        snapshot::HashBy,
    },
    proxy::{
        outcome::{Cause, Phase},
        plan::BackendPlan,
        socket::Addresses,
        timer::within,
    },
};

/// A place at a server for the request, and how long it waited for it; `hash` is [`hash`]'s,
/// `tried` are servers that it has had in vain; `is_again`: it had one before.
pub(super) async fn choose(
    exchange: &mut Exchange,
    backend: &BackendPlan,
    hash: Option<u64>,
    tried: &[u64],
    is_again: bool,
) -> Result<(Lease, Duration), Failure> {
    let facts = PickFacts {
        hash,
        random: fastrand::u64(..),
        client: Some(exchange.source_hash),
        priority: exchange.priority,
        own: exchange.own.as_ref(),
        avoid: tried,
        is_firm: false,
        is_again,
    };
    let unavailable =
        |cause, phase, why| Failure::new(StatusCode::SERVICE_UNAVAILABLE, cause, phase, why);
    let ticket = match backend.pool.pick(&facts) {
        Ok(Picked::Server(lease)) => return Ok((lease, Duration::ZERO)),
        Ok(Picked::Queued(ticket)) => ticket,
        Err(PickError::NoServer | PickError::OwnServer) => {
            return Err(unavailable(Cause::Server, Phase::Connect, "no_server"));
        }
        Err(PickError::QueueFull { .. }) => {
            return Err(unavailable(Cause::Policy, Phase::Queue, "queue_length"));
        }
    };
    exchange.phase.set(Phase::Queue);
    let began = Instant::now();
    match Box::pin(within(exchange.timeouts.queue(backend), ticket)).await {
        Some(Ok(lease)) => Ok((lease, began.elapsed())),
        Some(Err(_abandoned)) => Err(unavailable(Cause::Server, Phase::Queue, "no_server")),
        None => Err(unavailable(Cause::ServerTimeout, Phase::Queue, "queue_timeout")),
    }
}

/// What a hashing algorithm looks at; none if the algorithm is no such, or the request has
/// no such thing.
pub(super) fn hash(
    backend: &BackendPlan,
    addresses: &Addresses,
    uri: &Uri,
    fields: &HeaderMap,
) -> Option<u64> {
    let key = match &backend.settings.balancing.algorithm {
        Balance::Maglev => match backend.hash {
            HashBy::Tuple => {
                return Some(key::of_connection(addresses.source, addresses.destination));
            }
            HashBy::Source => return Some(key::of_source(addresses.source.ip())),
        },
        Balance::Hash(key) => key,
        _ => return None,
    };
    match key {
        HashKey::Source => Some(key::of_source(addresses.source.ip())),
        HashKey::Uri => match uri.path_and_query() {
            Some(target) => Some(key::of_bytes(target.as_str().as_bytes())),
            // That of a CONNECT.
            None => uri.authority().map(|target| key::of_bytes(target.as_str().as_bytes())),
        },
        HashKey::Path => {
            Some(uri.path()).filter(|path| !path.is_empty()).map(|it| key::of_bytes(it.as_bytes()))
        }
        HashKey::Header(name) if name.eq_ignore_ascii_case(HOST.as_str()) => {
            fields.get(HOST).map(|host| key::of_bytes(&bare_host(host.as_bytes())))
        }
        HashKey::Header(name) => fields.get(name).map(|value| key::of_bytes(value.as_bytes())),
        HashKey::Query(name) => parameter(uri.query()?, name).map(|v| key::of_bytes(v.as_bytes())),
        HashKey::Cookie(name) => {
            let value = cookie::value_in(fields.get(COOKIE)?.as_bytes(), name)?;
            Some(key::of_bytes(value))
        }
    }
}

/// A host as rules compare it: in lower case, without a port and the root's dot.
fn bare_host(host: &[u8]) -> Cow<'_, [u8]> {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let host = host[..host.len() - digits].strip_suffix(b":").unwrap_or(host);
    let host = host.strip_suffix(b".").unwrap_or(host);
    match host.iter().any(u8::is_ascii_uppercase) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

/// The value of a parameter, as it is written.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_however_it_is_written() {
        for host in ["a.example", "A.Example", "a.example:8080", "a.example.", "A.example.:80"] {
            assert_eq!(&*bare_host(host.as_bytes()), b"a.example", "{host}");
        }
        for host in ["10.0.0.1", "10.0.0.1:443"] {
            assert_eq!(&*bare_host(host.as_bytes()), b"10.0.0.1", "{host}");
        }
        for host in ["[2001:DB8::1]", "[2001:db8::1]:443"] {
            assert_eq!(&*bare_host(host.as_bytes()), b"[2001:db8::1]", "{host}");
        }
    }
}
