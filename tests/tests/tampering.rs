//! Somebody else deletes and overwrites what the agent keeps in the pinned maps. It compares
//! every five seconds, whether or not anything happens, and puts them right.

use std::{collections::BTreeMap, net::TcpStream, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_common::abi::map;
use serde_json::Value;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool::{self, RawEntry},
    clients::{self, Conversation},
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

/// The agent's period, and what a busy machine may add.
const PATIENCE: Duration = Duration::from_secs(10);

/// One pinned map under the operator's hands.
struct Pinned<'a> {
    path: &'a str,
}

impl Pinned<'_> {
    fn chosen(&self) -> [&str; 2] {
        ["pinned", self.path]
    }

    fn entries(&self) -> Result<Vec<RawEntry>> {
        bpftool::raw_entries(&self.chosen())
    }

    /// The entry of which `bpftool` prints this, and its bytes.
    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Result<RawEntry> {
        let dumped = bpftool::json(&["map", "dump", "pinned"], Path::new(self.path))?;
        let entries = dumped.as_array().context("a list")?;
        let index = entries
            .iter()
            .filter_map(|entry| Some((entry, entry.get("formatted")?)))
            .find(|(_, formatted)| wanted(formatted))
            .and_then(|(entry, _)| entry.get("key"))
            .with_context(|| format!("{} has no such entry", self.path))?;
        let key = index.as_array().context("bytes")?.iter();
        let key: Option<Vec<&str>> = key.map(Value::as_str).collect();
        let key = key.context("bytes")?;
        let found = self.entries()?.into_iter().find(|entry| entry.key == key);
        found.context("it is gone")
    }

    fn update<'a>(&self, key: &[String], value: impl IntoIterator<Item = &'a str>) -> Result<()> {
        bpftool::update(&self.chosen(), key, value)
    }

    fn delete(&self, key: &[String]) -> Result<()> {
        bpftool::delete(&self.chosen(), key)
    }

    /// Overwrites an entry with another of its values.
    fn overwrite(&self, entry: &RawEntry, change: impl Fn(usize, &str) -> String) -> Result<()> {
        let value = entry.value.iter().enumerate().map(|(index, byte)| change(index, byte));
        let value: Vec<String> = value.collect();
        ensure!(value != entry.value, "nothing is changed of {entry:?}");
        self.update(&entry.key, value.iter().map(String::as_str))
    }

    fn zero(&self, entry: &RawEntry) -> Result<()> {
        self.overwrite(entry, |_, _| "0x00".to_owned())
    }
}

/// An entry of `VIPS` or `SERVERS` by its port, and by the last octet but `back` of its
/// address.
fn is_at(entry: &Value, half: &str, port: u16, back: usize, octet: u8) -> bool {
    let number = |pointer: &str| entry.pointer(pointer).and_then(Value::as_u64);
    let octet_at = format!("/{half}/address/octets/{}", 15 - back);
    number(&format!("/{half}/port/__0")) == Some(u64::from(port.to_be()))
        && number(&octet_at) == Some(u64::from(octet))
}

/// What the maps say of who is served by whom. Servers that were wiped out come back with
/// another identity, which is an id with a generation, and show in the signature of a ring.
fn dump(agent: &Agent<'_>) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let names = [map::SETTINGS, map::ADDRESS_FILTER, map::VIPS, map::BACKENDS, map::SERVERS];
    let mut dumps = BTreeMap::new();
    for name in names {
        let mut entries = bpftool::formatted_entries(&agent.pin_directory().join(name))?;
        for entry in &mut entries {
            let (dropped, keyed) = match name {
                map::BACKENDS => (Some("ring_signature"), true),
                map::SERVERS => (Some("generation"), false),
                _ => (None, true),
            };
            let entry = entry.as_object_mut().context("an object")?;
            if !keyed {
                entry.remove("key");
            }
            if let (Some(field), Some(value)) = (dropped, entry.get_mut("value")) {
                value.as_object_mut().and_then(|value| value.remove(field)).context(field)?;
            }
        }
        let mut entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        entries.sort();
        dumps.insert(name, entries);
    }
    Ok(dumps)
}

fn require_service(bed: &Bed) -> Result<()> {
    for family in Family::BOTH {
        let [line, udp, web] = [port::LINE, port::UDP, 80].map(|port| Bed::vip(family, port));
        let tally = bed.client.run(|| Ok(clients::short_connections(line, 60, 2)))?;
        tally.require_all(60)?;
        ensure!(tally.answers.len() == 2, "{line}: {tally}");
        let tally = bed.client.run(|| Ok(clients::udp_exchanges(udp, 60, 2)))?;
        tally.require_all(60)?;
        ensure!(tally.answers.len() == 2, "{udp}: {tally}");
        for _ in 0..10 {
            let answer = bed.client.run(|| Ok(clients::get(TcpStream::connect(web)?, "/")?))?;
            ensure!(answer.status == 200, "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn maps_that_somebody_else_wrote_to_are_put_right() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    require_service(&bed)?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    let before = dump(&agent)?;
    let path = |name: &str| agent.pin_directory().join(name).to_string_lossy().into_owned();
    let paths = [map::VIPS, map::SERVERS, map::RINGS, map::ADDRESS_FILTER].map(path);
    let [vips, servers, rings, filter] = paths.each_ref().map(|path| Pinned { path });

    // A VIP that is gone, one that leads nowhere, and an address that is not ours any more.
    let vip = |port| vips.find(|entry| is_at(entry, "key", port, 0, 0x0a));
    vips.delete(&vip(port::LINE)?.key)?;
    let web = vips.find(|entry| is_at(entry, "key", 80, 0, 0x10))?;
    vips.overwrite(&web, |index, byte| if index < 4 { byte.to_owned() } else { "0x07".into() })?;
    filter.zero(filter.entries()?.iter().find(|entry| !is_zero(entry)).context("no word")?)?;
    // Servers that are elsewhere, or nothing at all.
    let server = |port, octet| servers.find(|entry| is_at(entry, "value", port, 1, octet));
    servers.overwrite(&server(port::UDP, 0)?, |_, _| "0xff".to_owned())?;
    servers.zero(&server(port::HTTP, 1)?)?;
    // Rings: one that is gone, one that is another's; and nobody can write to one.
    let all = rings.entries()?;
    let [first, second, third, ..] = all.as_slice() else {
        anyhow::bail!("{} rings", all.len());
    };
    rings.delete(&first.key)?;
    let other = third.id()?.to_string();
    rings.update(&second.key, ["id", &other])?;
    let slots = bpftool::raw_entries(&["id", &other])?;
    let line = slots.first().context("an empty ring")?;
    let zeros = line.value.iter().map(|_| "0x00");
    let refused = bpftool::update(&["id", &other], &line.key, zeros);
    ensure!(refused.is_err(), "a ring was overwritten in place");

    let ((), took) = wait_until("the maps to be as they were", PATIENCE, || {
        let now = dump(&agent)?;
        for (name, entries) in &before {
            let odd = now[name].iter().find(|entry| !entries.contains(entry));
            ensure!(now.get(name) == Some(entries), "{name} holds {odd:?}");
        }
        Ok(())
    })?;
    note(format_args!("put right after {took:?}"));
    let now = rings.entries()?;
    let keys = |entries: &[RawEntry]| -> Vec<Vec<String>> {
        entries.iter().map(|entry| entry.key.clone()).collect()
    };
    ensure!(keys(&now) == keys(&all), "rings {now:?}, before {all:?}");
    // Both of the first two are new ones, and the one that was left alone is not.
    let made_again: Vec<bool> = all.iter().zip(&now).map(|(old, new)| old != new).take(3).collect();
    ensure!(made_again == [true, true, false], "rings {now:?}, before {all:?}");
    ensure!(now.get(1).is_some_and(|ring| ring.value != third.value), "another's ring: {now:?}");
    require_service(&bed)?;
    for conversation in &mut kept {
        conversation.say()?;
    }
    let error = agent.status()?.datapath.apply_error;
    ensure!(error.is_none(), "{error:?}");
    Ok(())
}

fn is_zero(entry: &RawEntry) -> bool {
    entry.value.iter().all(|byte| byte == "0x00")
}
