//! An agent on loopback, and an authority for everybody's certificates.

use std::ops::{Deref, DerefMut};

use anyhow::Result;
use testbed::loopback::Loopback;
pub(crate) use testbed::loopback::{
    PATIENCE, free, greeter, greeting, herald, inheritable, said, succeed, text,
};

use crate::authority::Authority;

/// A directory, an authority in it, and an agent once it is started.
pub(crate) struct Bed {
    pub(crate) authority: Authority,
    place: Loopback,
}

impl Bed {
    pub(crate) fn new() -> Result<Self> {
        let place = Loopback::new()?;
        let authority = Authority::new(place.directory.path())?;
        Ok(Self { authority, place })
    }
}

impl Deref for Bed {
    type Target = Loopback;

    fn deref(&self) -> &Loopback {
        &self.place
    }
}

impl DerefMut for Bed {
    fn deref_mut(&mut self) -> &mut Loopback {
        &mut self.place
    }
}
