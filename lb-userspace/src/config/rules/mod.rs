//! `frontends.NAME.rules` and `conditions`: routing rules of `http` frontends.
//!
//! | file | owns |
//! |---|---|
//! | `shape` | lists that may be single values, and mappings by name |
//! | `condition`, `request`, `connection`, `client` | the keys of `if`, by what they look at |
//! | `rule` | the keys of a rule |
//! | `header`, `rewrite`, `redirect`, `respond`, `traffic` | the keys of its actions |
//! | `file` | lists and bodies that are read from files |
//! | `resolve` | references to backends and named conditions |
//! | `warning` | rules that no request reaches |

mod client;
mod condition;
mod connection;
mod file;
mod header;
mod redirect;
mod request;
mod resolve;
mod respond;
mod rewrite;
mod rule;
mod shape;
#[cfg(test)]
mod tests;
mod traffic;
mod warning;

pub(super) use self::{
    condition::{CONDITIONS, NamedConditions},
    connection::network,
    file::NetworkFile,
    request::header_name,
    resolve::Resolver,
    rule::{RULES, RawRules},
    shape::{OneOf, all},
};
