//! Socket addresses of the file: `10.0.0.100:5432`, `[2001:db8::1]:53/udp`.
//!
//! Which addresses can be a VIP or a server follows RFC 6890 (special-purpose addresses)
//! and from what the data plane can forward: it has no route to this host's loopback, and
//! its maps store IPv4 in mapped form, so mapped addresses are not accepted as IPv6.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{
    admin::MAX_SOCKET_BYTES,
    datapath::absolute_path,
    fault::{Refusal, quoted},
};
use crate::model::{address::ServerAddress, frontend::ListenAddress, snapshot::Protocol};

/// Reads `ADDRESS:PORT` with a port from 1 to 65535.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Refusal> {
    let Ok(address) = text.parse::<SocketAddr>() else { return Err(explain(text)) };
    if address.port() == 0 {
        let message = format!("the port of {} is 0", quoted(text));
        return Err(Refusal::new(message).hint("a port is an integer from 1 to 65535"));
    }
    if let SocketAddr::V6(v6) = address {
        if v6.scope_id() != 0 {
            let message = format!("{} has a zone", quoted(text));
            return Err(Refusal::new(message).hint("use an address that is not link-local"));
        }
        if let Some(v4) = v6.ip().to_ipv4_mapped() {
            let message = format!("{} is an IPv4 address in IPv6 form", quoted(text));
            return Err(Refusal::new(message).hint(format!("write {v4}:{}", v6.port())));
        }
    }
    Ok(address)
}

/// Reads `ADDRESS:PORT`, perhaps followed by `/tcp` or `/udp`.
pub(super) fn address_and_protocol(text: &str) -> Result<(SocketAddr, Option<Protocol>), Refusal> {
    let (address, protocol) = match text.split_once('/') {
        None => (text, None),
        Some((address, "tcp")) => (address, Some(Protocol::Tcp)),
        Some((address, "udp")) => (address, Some(Protocol::Udp)),
        Some((_, other)) => {
            let message = format!("{} is not a protocol", quoted(other));
            return Err(Refusal::new(message).hint("an address may end in /tcp or /udp"));
        }
    };
    Ok((socket_address(address)?, protocol))
}

/// Where a frontend listens, in any mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BindAddress {
    /// `ADDRESS:PORT`.
    Socket(SocketAddr),
    /// What only the proxy can listen on.
    Other(ListenAddress),
}

impl From<BindAddress> for ListenAddress {
    fn from(address: BindAddress) -> Self {
        match address {
            BindAddress::Socket(address) => Self::Tcp(address),
            BindAddress::Other(other) => other,
        }
    }
}

/// Reads the path of a unix socket, which stands in `text`.
pub(super) fn unix_socket(path: &str, text: &str) -> Result<PathBuf, Refusal> {
    match absolute_path(path) {
        Ok(path) if path.as_os_str().len() <= MAX_SOCKET_BYTES => Ok(path),
        _ => {
            let refusal = Refusal::new(format!("{} names no socket", quoted(text)));
            Err(refusal.hint("unix@/absolute/path, at most 107 bytes"))
        }
    }
}

/// Reads an entry of `bind`.
pub(super) fn bind_address(text: &str) -> Result<(BindAddress, Option<Protocol>), Refusal> {
    let bad = |what: &str, hint: &str| {
        Err(Refusal::new(format!("{} names no {what}", quoted(text))).hint(hint))
    };
    let other = match text.split_once('@') {
        Some(("unix", path)) => ListenAddress::Unix(unix_socket(path, text)?),
        Some(("fd", number)) => match number.parse() {
            Ok(number @ 3..) => ListenAddress::Descriptor(number),
            _ => return bad("descriptor", "fd@N with a number from 3"),
        },
        Some(("systemd", name)) if !name.is_empty() && !name.contains(':') => {
            ListenAddress::Systemd(name.to_owned())
        }
        Some(("systemd", _)) => return bad("socket", "systemd@NAME, as in FileDescriptorName="),
        _ => {
            let (address, protocol) = address_and_protocol(text)?;
            return Ok((BindAddress::Socket(address), protocol));
        }
    };
    Ok((BindAddress::Other(other), None))
}

/// Whether clients can reach an address and the data plane can take its packets.
pub(super) fn judge_vip(address: SocketAddr) -> Result<(), Refusal> {
    judge(address, "a VIP", "a VIP is one address that clients connect to")
}

/// Whether an address is one server's, so that the proxy can connect to it.
pub(super) fn judge_proxied(address: ServerAddress) -> Result<(), Refusal> {
    let Some(address) = address.socket() else { return Ok(()) };
    let kind = match address.ip() {
        ip if ip.is_unspecified() => "unspecified",
        ip if ip.is_multicast() => "multicast",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        _ => return Ok(()),
    };
    let hint = "a server is one machine, or this one";
    Err(Refusal::new(format!("{address} can not be a server: the address is {kind}")).hint(hint))
}

/// Whether the data plane can forward to an address.
pub(super) fn judge_server(address: ServerAddress) -> Result<(), Refusal> {
    let Some(address) = address.socket() else {
        let refusal = Refusal::new(format!("{address} can not be a server of layer 4"));
        return Err(refusal.hint("packets reach addresses; `mode: tcp` connects to unix sockets"));
    };
    judge(address, "a server", "a server is another machine that the balancer has a route to")
}

fn judge(address: SocketAddr, what: &str, hint: &str) -> Result<(), Refusal> {
    let kind = match address.ip() {
        ip if ip.is_unspecified() => "unspecified",
        ip if ip.is_multicast() => "multicast",
        ip if ip.is_loopback() => "loopback",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => "reserved",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        _ => return Ok(()),
    };
    Err(Refusal::new(format!("{address} can not be {what}: the address is {kind}")).hint(hint))
}

/// Why a text is not an address and a port.
fn explain(text: &str) -> Refusal {
    let not_one = Refusal::new(format!("{} is not an address and a port", quoted(text)));
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return not_one.hint(format!("add the port: {ip}:PORT")),
        Ok(IpAddr::V6(ip)) => return not_one.hint(format!("add the port: \"[{ip}]:PORT\"")),
        Err(_) => {}
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return not_one.hint("write it like 10.0.0.100:5432 or [2001:db8::1]:53");
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match (bare.parse::<IpAddr>(), port.parse::<u16>()) {
        (Ok(IpAddr::V6(ip)), Ok(port)) => not_one.hint(format!("write \"[{ip}]:{port}\"")),
        (Ok(_), _) => not_one.hint("a port is an integer from 1 to 65535"),
        (Err(_), _) if host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':') => {
            not_one.hint("names are not looked up; write the IP address")
        }
        _ => not_one.hint("write it like 10.0.0.100:5432 or [2001:db8::1]:53"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, Option<Protocol>), &str>) {
        match (address_and_protocol(text), expected) {
            (Ok((address, protocol)), Ok(expected)) => {
                assert_eq!((address.to_string().as_str(), protocol), expected);
            }
            (Err(refusal), Err(expected)) => {
                let hint = refusal.hint.unwrap_or_default();
                assert_eq!(format!("{}; {hint}", refusal.message), expected);
            }
            (got, expected) => panic!("{text}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn reads_both_families_and_the_protocol() {
        check("10.0.0.100:5432", Ok(("10.0.0.100:5432", None)));
        check("10.0.0.53:53/udp", Ok(("10.0.0.53:53", Some(Protocol::Udp))));
        check("[2001:db8::1]:53/tcp", Ok(("[2001:db8::1]:53", Some(Protocol::Tcp))));
    }

    #[test]
    fn says_what_an_address_lacks() {
        check(
            "10.0.0.1",
            Err("\"10.0.0.1\" is not an address and a port; add the port: 10.0.0.1:PORT"),
        );
        check("::1", Err("\"::1\" is not an address and a port; add the port: \"[::1]:PORT\""));
        check(
            "2001:db8::g:53",
            Err("\"2001:db8::g:53\" is not an address and a port; \
                 write it like 10.0.0.100:5432 or [2001:db8::1]:53"),
        );
        check(
            "10.0.0.1:70000",
            Err("\"10.0.0.1:70000\" is not an address and a port; \
                 a port is an integer from 1 to 65535"),
        );
        check(
            "db.example.com:5432",
            Err("\"db.example.com:5432\" is not an address and a port; \
                 names are not looked up; write the IP address"),
        );
        check(
            "10.0.0.1:0",
            Err("the port of \"10.0.0.1:0\" is 0; a port is an integer from 1 to 65535"),
        );
        check(
            "[fe80::1%2]:53",
            Err("\"[fe80::1%2]:53\" has a zone; use an address that is not link-local"),
        );
        check(
            "[::ffff:10.0.0.1]:53",
            Err("\"[::ffff:10.0.0.1]:53\" is an IPv4 address in IPv6 form; write 10.0.0.1:53"),
        );
        check(
            "10.0.0.1:53/sctp",
            Err("\"sctp\" is not a protocol; an address may end in /tcp or /udp"),
        );
    }

    #[test]
    fn special_addresses_are_no_vips() {
        let kind = |text: &str| {
            let message = judge_vip(text.parse().unwrap()).err().map(|refusal| refusal.message);
            message.and_then(|message| message.rsplit(' ').next().map(str::to_owned))
        };
        assert_eq!(kind("0.0.0.0:80").as_deref(), Some("unspecified"));
        assert_eq!(kind("[::]:80").as_deref(), Some("unspecified"));
        assert_eq!(kind("127.0.0.1:80").as_deref(), Some("loopback"));
        assert_eq!(kind("[::1]:80").as_deref(), Some("loopback"));
        assert_eq!(kind("224.0.0.1:80").as_deref(), Some("multicast"));
        assert_eq!(kind("[ff02::1]:80").as_deref(), Some("multicast"));
        assert_eq!(kind("255.255.255.255:80").as_deref(), Some("broadcast"));
        assert_eq!(kind("240.0.0.1:80").as_deref(), Some("reserved"));
        assert_eq!(kind("0.1.2.3:80").as_deref(), Some("reserved"));
        assert_eq!(kind("[fe80::1]:80").as_deref(), Some("link-local"));
        assert_eq!(kind("10.0.0.1:80"), None);
        assert_eq!(kind("[2001:db8::1]:80"), None);
    }
}
