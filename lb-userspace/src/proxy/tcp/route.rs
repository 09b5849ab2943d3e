//! Which backend a connection goes to. Rules with server names are found by name, so a
//! thousand of them cost no more than one.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use crate::model::tcp_rule::{SniPattern, TcpAction, TcpRule};

/// The rules of a frontend, in a form to look them up in. `B` stands for a backend.
#[derive(Debug)]
pub struct Router<B> {
    /// Networks that a rule is for, and where it sends: none denies.
    rules: Vec<(Option<Vec<IpNet>>, Option<B>)>,
    /// Rules by server name, and of wildcards by what follows the star; each in order.
    by_name: HashMap<String, Vec<usize>>,
    /// Rules that take any name and none, in order.
    nameless: Vec<usize>,
    default: B,
}

impl<B> Router<B> {
    /// A router of `rules`; `resolve` finds a rule's backend, which is always there.
    pub fn new(
        rules: &[TcpRule],
        default: B,
        resolve: impl Fn(&crate::model::name::Name) -> Option<B>,
    ) -> Self {
        let mut router =
            Self { rules: Vec::new(), by_name: HashMap::new(), nameless: Vec::new(), default };
        for rule in rules {
            let route = match &rule.action {
                TcpAction::Deny => None,
                // Without its backend there is nothing it could do.
                TcpAction::Backend(name) => match resolve(name) {
                    Some(backend) => Some(backend),
                    None => continue,
                },
            };
            let number = router.rules.len();
            router.rules.push((rule.source.clone(), route));
            let Some(patterns) = &rule.sni else {
                router.nameless.push(number);
                continue;
            };
            for pattern in patterns {
                let (SniPattern::Exact(key) | SniPattern::Wildcard(key)) = pattern;
                router.by_name.entry(key.clone()).or_default().push(number);
            }
        }
        router
    }

    /// Whether a connection's server name matters.
    #[must_use]
    pub fn asks_for_name(&self) -> bool {
        !self.by_name.is_empty()
    }

    /// Where a connection goes that comes from `source` and asks for `name`, lower case.
    ///
    /// # Errors
    /// [`Denied`]: nowhere.
    pub fn route(&self, source: IpAddr, name: Option<&str>) -> Result<&B, Denied> {
        let of =
            |key: Option<&str>| key.and_then(|key| self.by_name.get(key)).into_iter().flatten();
        let parent = name.and_then(|name| name.find('.').map(|dot| &name[dot..]));
        let candidates = of(name).chain(of(parent)).chain(&self.nameless);
        let holds = |networks: &Option<Vec<IpNet>>| {
            networks
                .as_ref()
                .is_none_or(|list| list.iter().any(|network| network.contains(&source)))
        };
        match candidates.filter(|number| holds(&self.rules[**number].0)).min() {
            None => Ok(&self.default),
            Some(number) => self.rules[*number].1.as_ref().ok_or(Denied),
        }
    }
}

/// A rule closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule denies it")]
pub struct Denied;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Name;

    fn exact(name: &str) -> Option<Vec<SniPattern>> {
        Some(vec![SniPattern::Exact(name.into())])
    }

    fn to(name: &str) -> TcpAction {
        TcpAction::Backend(Name::new(name).unwrap())
    }

    fn router(rules: &[TcpRule]) -> Router<String> {
        Router::new(rules, "default".into(), |name| Some(name.to_string()))
    }

    #[track_caller]
    fn check(router: &Router<String>, source: &str, name: Option<&str>, expected: &str) {
        let route = router.route(source.parse().unwrap(), name);
        assert_eq!(route.map_or("denied", String::as_str), expected, "{source} {name:?}");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let wildcard = Some(vec![SniPattern::Wildcard(".test".into())]);
        let office = Some(vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        let router = router(&[
            TcpRule { sni: exact("a.test"), source: office.clone(), action: to("office") },
            TcpRule { sni: exact("a.test"), source: None, action: to("a") },
            TcpRule { sni: wildcard, source: None, action: to("wild") },
            TcpRule { sni: exact("b.test"), source: None, action: to("never") },
            TcpRule { sni: None, source: office, action: TcpAction::Deny },
        ]);
        assert!(router.asks_for_name());
        check(&router, "192.0.2.1", Some("a.test"), "office");
        check(&router, "2001:db8::1", Some("a.test"), "office");
        check(&router, "198.51.100.1", Some("a.test"), "a");
        check(&router, "198.51.100.1", Some("b.test"), "wild");
        check(&router, "198.51.100.1", Some("b.c.test"), "default");
        check(&router, "198.51.100.1", Some("test"), "default");
        check(&router, "192.0.2.1", Some("x.example"), "denied");
        check(&router, "192.0.2.1", None, "denied");
        check(&router, "198.51.100.1", None, "default");
    }

    #[test]
    fn without_names_no_name_is_asked_for() {
        let router = router(&[TcpRule { sni: None, source: None, action: to("all") }]);
        assert!(!router.asks_for_name());
        check(&router, "192.0.2.1", None, "all");
    }
}
