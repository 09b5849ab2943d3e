//! Input that means harm, or is just broken: faults, never a panic, never a bad snapshot.

use std::{collections::HashSet, fs, time::Instant};

use proptest::{prelude::*, test_runner::TestCaseError};

use crate::{
    config::{Faults, Loaded, parse},
    model::snapshot::Snapshot,
};

/// Reads a text and holds the result against what every result promises.
fn judge(text: &str) -> Result<(), TestCaseError> {
    match parse(text, "c") {
        Ok(Loaded { snapshot, .. }) => judge_snapshot(&snapshot),
        Err(faults) => judge_faults(&faults, text),
    }
}

fn judge_faults(faults: &Faults, text: &str) -> Result<(), TestCaseError> {
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    prop_assert!(!faults.as_slice().is_empty());
    prop_assert_eq!(faults.to_string().lines().count(), faults.as_slice().len(), "{}", faults);
    for fault in faults.as_slice() {
        prop_assert!((1..=lines + 1).contains(&fault.line), "{} of {} lines", fault, lines);
        prop_assert!(fault.column >= 1);
        prop_assert!(!fault.message.is_empty());
        prop_assert!(fault.to_string().len() < 4096);
        prop_assert!(!fault.message.contains("please report"), "{}", fault);
    }
    Ok(())
}

/// What a [`Snapshot`] promises by its documentation.
fn judge_snapshot(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let mut vips = HashSet::new();
    for frontend in snapshot.frontends.values() {
        for backend in frontend.backends() {
            prop_assert!(snapshot.backends.contains_key(backend), "{}", backend);
        }
    }
    for (_, frontend) in snapshot.l4_frontends() {
        let backend = snapshot.backends.get(&frontend.backend);
        prop_assert!(!frontend.bind.is_empty());
        let is_ipv4 = frontend.bind[0].address.is_ipv4();
        for bind in &frontend.bind {
            prop_assert!(vips.insert((bind.address, bind.protocol)));
            prop_assert!(bind.address.port() != 0 && !bind.address.ip().is_unspecified());
            prop_assert_eq!(bind.address.is_ipv4(), is_ipv4);
        }
        for server in backend.iter().flat_map(|backend| backend.servers.values()) {
            let Some(address) = server.address.socket() else {
                return Err(TestCaseError::fail("a unix socket in layer 4"));
            };
            prop_assert!(address.port() != 0 && !address.ip().is_unspecified());
            let same_family = address.is_ipv4() == is_ipv4;
            prop_assert!(same_family || frontend.forward.encapsulates());
            let ports = || frontend.bind.iter().map(|bind| bind.address.port());
            let same_ports = ports().all(|port| port == address.port());
            prop_assert!(same_ports || !frontend.forward.is_one_way());
            prop_assert!(server.weight <= 256);
        }
    }
    for check in snapshot.backends.values().filter_map(|backend| backend.check.as_ref()) {
        prop_assert!(check.timeout <= check.interval && check.fast_interval <= check.interval);
        prop_assert!(check.fall > 0 && check.rise > 0 && check.port != Some(0));
    }
    Ok(())
}

/// The examples' texts.
fn examples() -> Vec<String> {
    super::examples().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    /// A character becomes another text.
    Replace(prop::sample::Index, String),
    /// A line goes.
    Delete(prop::sample::Index),
    /// A line stands somewhere else too.
    Copy(prop::sample::Index, prop::sample::Index),
    /// Two words are swapped.
    Swap(prop::sample::Index, prop::sample::Index),
    /// The rest goes.
    Truncate(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), "[\\PC\t\n]{0,3}").prop_map(|(at, text)| Change::Replace(at, text)),
        2 => index().prop_map(Change::Delete),
        2 => (index(), index()).prop_map(|(from, to)| Change::Copy(from, to)),
        4 => (index(), index()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => index().prop_map(Change::Truncate),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut characters: Vec<String> = text.chars().map(String::from).collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    if characters.is_empty() {
        return String::new();
    }
    match change {
        Change::Replace(at, with) => {
            let at = at.index(characters.len());
            characters[at].clone_from(with);
            characters.concat()
        }
        Change::Truncate(at) => characters[..at.index(characters.len())].concat(),
        Change::Delete(at) => {
            lines.remove(at.index(lines.len()));
            lines.join("\n")
        }
        Change::Copy(from, to) => {
            lines.insert(to.index(lines.len()), lines[from.index(lines.len())]);
            lines.join("\n")
        }
        Change::Swap(one, other) => {
            let mut words: Vec<&str> = text.split_inclusive([' ', '\n', ',', '{', '[']).collect();
            let count = words.len();
            words.swap(one.index(count), other.index(count));
            words.concat()
        }
    }
}

proptest! {
    // More if PROPTEST_CASES says so.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1000)))]

    #[test]
    fn any_text_is_good_or_has_faults(text in any::<String>()) {
        judge(&text)?;
    }

    #[test]
    fn any_text_like_yaml_is_good_or_has_faults(
        text in r#"([-?:,\[\]{}#&*!|>'"%@`~<\\ \n\t\r]|[a-c0-9./]|: |- |\n  |--- |\.\.\.){0,80}"#,
    ) {
        judge(&text)?;
    }

    #[test]
    fn a_changed_example_is_good_or_has_faults(
        example in prop::sample::select(examples()),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let text = changes.iter().fold(example, |text, change| apply(&text, change));
        judge(&text)?;
    }
}

/// Reads a huge text: it must have faults, and in a time that an operator waits.
#[track_caller]
fn refuse_quickly(what: &str, text: &str) {
    let start = Instant::now();
    let result = parse(text, "c");
    let took = start.elapsed();
    assert!(result.is_err(), "{what}");
    judge_faults(&result.unwrap_err(), text).unwrap();
    assert!(took.as_secs() < 10, "{what}: {took:?}");
    println!("{what}: {took:?}");
}

#[test]
fn huge_input_is_refused_quickly() {
    const SIZE: usize = 1 << 18;
    for unit in
        ["[", "{", "- ", "? ", "a: ", "&a ", "*a\n", "!a ", "'", "\"", "|\n", "a\n", "\t", ": "]
    {
        refuse_quickly(unit, &unit.repeat(SIZE / unit.len()));
    }
    let nested: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refuse_quickly("nested block mappings", &nested);
    let unknown: String = (0..SIZE / 16).map(|n| format!("key{n}: {n}\n")).collect();
    refuse_quickly("unknown keys", &unknown);
    let frontends: String = (0..SIZE / 16).map(|n| format!("  f{n}: {{}}\n")).collect();
    refuse_quickly("frontends without anything", &format!("frontends:\n{frontends}"));
    refuse_quickly("more than is read", &"#".repeat(5 << 20));
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        let aliases = [alias.as_str(); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    refuse_quickly("alias bomb", &bomb);
}
