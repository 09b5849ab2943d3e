//! Lists of sources before sessions.

use std::sync::Arc;

use lb_common::access::{AccessRule, AdmissionEntry, action, list_scope};
use tokio::io::AsyncWriteExt;

use super::{
    accept,
    bed::{Bed, backend, name, run, server, site},
    rest,
};
use crate::{
    model::access::Prefix,
    proxy::gate::{Gate, GateKeeper, RuleBook, Ruling},
};

/// Denies these networks to the frontend of [`site`].
fn deny(keeper: &GateKeeper, networks: &[&str]) {
    let scope = list_scope("front");
    let rule = |network: &&str| {
        let prefix = Prefix { scope, network: network.parse().unwrap() };
        (prefix, AccessRule { action: action::DENY, expires_s: 0 })
    };
    let rules = networks.iter().map(rule).collect::<Vec<_>>().into();
    let entry = AdmissionEntry { scope, ..AdmissionEntry::default() };
    let book = RuleBook::new(rules, 0, [(name("front"), entry)].into());
    keeper.rule(Ruling::new(book, RuleBook::default(), 0));
}

#[test]
fn a_list_keeps_sessions_out_and_ends_those_there_are() {
    run(async {
        let (listener, address) = server().await;
        let keeper = Arc::new(GateKeeper::default());
        let mut place = site(vec![backend("b", &[address])], &[]);
        place.gate = Gate::new(Arc::clone(&keeper), name("front"));
        deny(&keeper, &["10.0.0.0/8"]);
        let bed = Bed::start(place).await;
        let mut client = bed.connect().await;
        client.write_all(b"x").await.unwrap();
        let _server = accept(&listener).await;
        deny(&keeper, &["127.0.0.0/8"]);
        rest(&mut client).await.unwrap_err();
        assert_eq!(bed.ending().await, ("PD".to_owned(), "denied"));
        let mut another = bed.connect().await;
        rest(&mut another).await.unwrap_err();
        assert_eq!(bed.ending().await, ("PR".to_owned(), "denied"));
    });
}
