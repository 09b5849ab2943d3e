//! The rules of an `http` frontend, as values: what a request must be (`condition`) and
//! what then happens to it (`action`).
//!
//! Rules are looked at in the order of the file. The first one that matches and *ends* the
//! request (a backend, a redirect, an answer) decides; everything that rules before it asked
//! for accumulates. Conditions see the request as the client sent it, with the path and the
//! host brought into one form ([`path`], [`host`]); a rewrite changes what the server gets,
//! not what later rules see. Only variables that a rule sets are seen by later ones.

pub mod action;
pub mod condition;
pub mod host;
pub mod networks;
pub mod path;
pub mod schedule;
pub mod share;
pub mod template;
pub mod text;

use self::{
    action::{Edit, Ending},
    condition::Condition,
};
use super::name::Name;

/// One rule of a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name in logs; rules without one are known by their number.
    pub name: Option<Name>,
    /// Which requests it is for.
    pub condition: Condition,
    /// What it changes, in the order in which it is done.
    pub edits: Vec<Edit>,
    /// How it ends the request; none lets the next rules decide.
    pub ending: Option<Ending>,
}

/// Most rules of one frontend.
pub const MAX_RULES: usize = 10_000;
