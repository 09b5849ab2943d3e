//! Names of frontends, backends and servers.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// A name given in the configuration: 1 to 63 bytes of ASCII letters, digits, `-`, `_`
/// and `.`, starting with a letter or a digit. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty or longer than 63 bytes.
    #[error("a name has 1 to 63 characters, this one {0}")]
    Length(usize),
    /// It holds a character that no name may hold, or starts with one that may not come first.
    #[error(
        "a name is made of letters, digits, '-', '_' and '.', and starts with a letter or a digit"
    )]
    Character,
}

impl Name {
    /// Longest name, in bytes; one less than the map field, so that it ends in a zero.
    pub const MAX_BYTES: usize = lb_common::backend::NAME_BYTES - 1;

    /// Checks and keeps a name.
    ///
    /// # Errors
    /// [`NameError`] if the text does not follow the rules above.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return Err(NameError::Length(text.len()));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let first = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !first || !text.bytes().all(allowed) {
            return Err(NameError::Character);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
