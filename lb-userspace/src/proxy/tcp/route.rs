//! Which backend a connection goes to, by the server name of its TLS. Names are looked up,
//! so a thousand of them cost no more than one.

use std::collections::HashMap;

use crate::model::{frontend::SniPattern, name::Name};

/// The backends of a frontend, to look them up in. `B` stands for a backend.
#[derive(Debug)]
pub struct Router<B> {
    /// By full name, and of wildcards by what follows the star: `.example.com`.
    by_name: HashMap<String, B>,
    default: B,
}

impl<B> Router<B> {
    /// A router; `resolve` finds a backend, which is always there.
    pub fn new(
        sni: &[(SniPattern, Name)],
        default: B,
        resolve: impl Fn(&Name) -> Option<B>,
    ) -> Self {
        let entry = |(pattern, backend): &(SniPattern, Name)| {
            let (SniPattern::Exact(key) | SniPattern::Wildcard(key)) = pattern;
            Some((key.clone(), resolve(backend)?))
        };
        Self { by_name: sni.iter().filter_map(entry).collect(), default }
    }

    /// Whether a connection's server name matters.
    #[must_use]
    pub fn asks_for_name(&self) -> bool {
        !self.by_name.is_empty()
    }

    /// Where a connection goes that asks for `name`, lower case: to the backend of the name,
    /// of the wildcard above it, or the default.
    #[must_use]
    pub fn route(&self, name: Option<&str>) -> &B {
        let find = |name: &str| {
            let parent = || name.find('.').and_then(|dot| self.by_name.get(&name[dot..]));
            self.by_name.get(name).or_else(parent)
        };
        name.and_then(find).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_that_before_the_default() {
        let name = |text: &str| Name::new(text).unwrap();
        let sni = [
            (SniPattern::Wildcard(".a.test".into()), name("wild")),
            (SniPattern::Exact("www.a.test".into()), name("exact")),
        ];
        let router = Router::new(&sni, "default".to_owned(), |name| Some(name.to_string()));
        assert!(router.asks_for_name());
        let check = |name: Option<&str>, expected: &str| assert_eq!(router.route(name), expected);
        check(Some("www.a.test"), "exact");
        check(Some("api.a.test"), "wild");
        check(Some("x.api.a.test"), "default");
        check(Some("a.test"), "default");
        check(Some(".a.test"), "wild");
        check(Some(""), "default");
        check(None, "default");
    }
}
