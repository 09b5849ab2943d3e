//! The manual of the configuration, written from the declarations that parse it.

use std::fmt::Write;

use super::{
    ROOT,
    schema::{KeyInfo, Presence, Section},
};

const INTRODUCTION: &str = "\
# Configuration

<!-- Written from lb-userspace/src/config; a test holds this page against it.
     Regenerate: POINTSMAN_BLESS=1 cargo test -p lb-userspace --lib config -->

One YAML file. `pointsman check FILE` reads it and lists every fault with its line, key path, value
and a hint; a faulty file is refused as a whole and whatever was in force stays in force. Unknown keys
are faults. Anchors, aliases, merge keys and tags are not used.

- **Durations** carry units: `100ms`, `5s`, `1h30m` (`us`, `ms`, `s`, `m`, `h`, `d`, largest first).
- **Addresses** are IP addresses with a port: `10.0.0.100:5432`, `\"[2001:db8::1]:53\"`. Names are not
  looked up. Put IPv6 addresses in quotes: YAML takes `[` for a list.
- **Names** of frontends, backends and servers have 1 to 63 letters, digits, `-`, `_` and `.`, and
  start with a letter or a digit.

A configuration to start from, [configs/databases.yaml](../configs/databases.yaml):

```yaml
";

/// The page `docs/configuration.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(include_str!("../../../configs/databases.yaml"));
    page.push_str("```\n");
    write_section(&mut page, &ROOT);
    page
}

fn write_section(page: &mut String, section: &'static Section) {
    let title = if section.path.is_empty() { "The file" } else { section.path };
    // Writing to a String does not fail.
    let _ = write!(page, "\n## {title}\n\n{}\n\n", section.doc);
    page.push_str("| key | value | if absent | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        write_key(page, *key);
    }
    if !section.unbuilt.is_empty() {
        let names: Vec<String> =
            section.unbuilt.iter().map(|unbuilt| format!("`{}`", unbuilt.name)).collect();
        let _ = write!(page, "\nNot built in this version: {}.\n", names.join(", "));
    }
    let mut parts: Vec<&Section> = section.keys.iter().filter_map(|key| key.section()).collect();
    // Two keys of one shape.
    parts.dedup_by_key(|part| part.path);
    for part in parts {
        write_section(page, part);
    }
}

fn write_key(page: &mut String, key: &dyn KeyInfo) {
    let value = match key.section() {
        Some(section) => format!("[{}](#{})", key.describe(), anchor(section.path)),
        None => key.describe(),
    };
    let absent = match key.presence() {
        Presence::Required(_) => "required".into(),
        Presence::Default("{}") if key.section().is_some() => "empty".into(),
        Presence::Default(text) => format!("`{text}`"),
        Presence::Optional(meaning) => meaning.into(),
    };
    let _ = writeln!(page, "| `{}` | {value} | {absent} | {} |", key.name(), key.doc());
}

/// The anchor GitHub gives to a heading.
fn anchor(path: &str) -> String {
    let kept = path.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-');
    kept.collect::<String>().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_manual_is_what_the_declarations_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let expected = super::reference_markdown();
        if std::env::var_os("POINTSMAN_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "docs/configuration.md is stale: set POINTSMAN_BLESS=1");
    }
}
