//! TLS: termination at bind addresses and encryption towards servers, on rustls with
//! aws-lc-rs.
//!
//! | file | owns |
//! |---|---|
//! | `termination` | one bind address's TLS: its configuration in force, handshakes, reloads |
//! | `encryption` | TLS towards the servers of one backend |
//! | `store` | certificates by server name |
//! | `source` | from paths to the files that make a certificate |
//! | `certificate` | one certificate: chain, key, names, stapled OCSP response |
//! | `pem` | PEM files, and who may read keys |
//! | `authority` | bundles of authorities and revocation lists |
//! | `parameters` | versions and cipher suites in rustls' terms |
//! | `tickets` | keys of session tickets |
//! | `facts` | what is known of a connection, and of the certificate its client showed |
//! | `watch` | noticing that files have changed |
//! | `error` | what is wrong with files, and who is to blame for a failed handshake |
//!
//! Whatever is read from files is immutable once read. A reload reads everything again and
//! swaps it in whole, or leaves what was in force; connections keep what they began with.

mod authority;
mod certificate;
pub mod encryption;
pub mod error;
pub mod facts;
mod parameters;
mod pem;
mod source;
mod store;
pub mod termination;
mod tickets;
pub mod watch;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
