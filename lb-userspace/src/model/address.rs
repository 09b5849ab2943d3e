//! Where a server listens: an address and a port, or a socket of this host.

use std::{
    collections::BTreeSet,
    fmt,
    net::{AddrParseError, IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// What comes before the path of a unix socket, as in `bind`.
const UNIX: &str = "unix@";

/// Where a server listens. Small enough to be copied with every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ServerAddress {
    /// Address and port; neither is unspecified.
    Ip(SocketAddr),
    /// A unix socket, for the proxy alone.
    Unix(SocketPath),
}

/// The path of a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketPath(&'static str);

impl SocketPath {
    /// The path `text`. It is kept for as long as the process lives, once however often it
    /// occurs: what configurations name is few and short.
    #[must_use]
    pub fn new(text: &str) -> Self {
        static ALL: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(text) {
            return Self(known);
        }
        let path: &'static str = Box::leak(text.into());
        all.insert(path);
        Self(path)
    }

    /// As a path.
    #[must_use]
    pub fn as_path(self) -> &'static Path {
        Path::new(self.0)
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl ServerAddress {
    /// Address and port; none of a unix socket.
    #[must_use]
    pub fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix(_) => None,
        }
    }

    /// The address; none of a unix socket.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// The same with IPv4 in its own form.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Ip(address) => {
                Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            Self::Unix(_) => self,
        }
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.as_str()),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_prefix(UNIX) {
            Some(path) => Ok(Self::Unix(SocketPath::new(path))),
            None => text.parse().map(Self::Ip),
        }
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_as_they_are_shown() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:80", "unix@/run/app.sock"] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::to_string(&address).unwrap(), format!("\"{text}\""));
        }
        assert!("app.sock".parse::<ServerAddress>().is_err());
    }

    #[test]
    fn a_path_is_kept_once() {
        let [one, same] = ["/run/once.sock"; 2].map(SocketPath::new);
        assert!(std::ptr::eq(one.as_str(), same.as_str()));
    }
}
