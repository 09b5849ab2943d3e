//! What an operator sees with `bpftool`.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::namespace::output;

/// Runs `bpftool -j ARGUMENTS PATH` and reads its JSON.
///
/// # Errors
/// When `bpftool` fails or prints no JSON.
pub fn json(arguments: &[&str], path: &Path) -> Result<Value> {
    let printed = output(Command::new("bpftool").arg("-j").args(arguments).arg(path))?;
    serde_json::from_str(&printed).with_context(|| format!("read JSON: {printed:.200}"))
}

/// A key and a value as `bpftool` prints and takes them: `0x` and two digits a byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawEntry {
    /// The key.
    pub key: Vec<String>,
    /// The value.
    pub value: Vec<String>,
}

impl RawEntry {
    /// The value's bytes.
    ///
    /// # Errors
    /// When `bpftool` printed something else.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        bytes(&self.value)
    }

    /// The value as a number: in a map of maps or of programs, an id.
    ///
    /// # Errors
    /// When it has not four bytes.
    pub fn id(&self) -> Result<u32> {
        number(&self.value)
    }

    /// The key as a number: in an array, the index.
    ///
    /// # Errors
    /// When it has not four bytes.
    pub fn index(&self) -> Result<u32> {
        number(&self.key)
    }
}

fn bytes(printed: &[String]) -> Result<Vec<u8>> {
    let byte = |text: &String| u8::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let bytes: Option<Vec<u8>> = printed.iter().map(byte).collect();
    bytes.with_context(|| format!("not bytes: {printed:?}"))
}

fn number(printed: &[String]) -> Result<u32> {
    let bytes = <[u8; 4]>::try_from(bytes(printed)?).ok();
    Ok(u32::from_ne_bytes(bytes.with_context(|| format!("no number: {printed:?}"))?))
}

/// What `bpftool -j map dump` prints of a map, chosen by `pinned PATH` or `id NUMBER`.
///
/// # Errors
/// When the map can not be dumped.
pub fn raw_dump(map: &[&str]) -> Result<String> {
    output(Command::new("bpftool").args(["-j", "map", "dump"]).args(map))
}

/// Entries of a map, chosen by `pinned PATH` or `id NUMBER`, as bytes and in order.
///
/// # Errors
/// When the map can not be dumped; one with values for each processor can not.
pub fn raw_entries(map: &[&str]) -> Result<Vec<RawEntry>> {
    let printed = raw_dump(map)?;
    let dumped: Value = serde_json::from_str(&printed).context("read JSON")?;
    let entries = dumped.as_array().with_context(|| format!("not a list: {dumped:.200}"))?;
    let bytes = |entry: &Value, field: &str| -> Option<Vec<String>> {
        let bytes = entry.get(field)?.as_array()?;
        bytes.iter().map(|byte| byte.as_str().map(str::to_owned)).collect()
    };
    let raw =
        |entry: &Value| Some(RawEntry { key: bytes(entry, "key")?, value: bytes(entry, "value")? });
    let raw: Option<Vec<RawEntry>> = entries.iter().map(raw).collect();
    let mut raw = raw.with_context(|| format!("not key and value: {dumped:.200}"))?;
    raw.sort();
    Ok(raw)
}

/// Runs `bpftool map update MAP key KEY value VALUE`; a value may be bytes, or `id NUMBER`
/// for a map of maps.
///
/// # Errors
/// When the kernel refuses.
pub fn update<'a>(
    map: &[&str],
    key: &[String],
    value: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let mut command = Command::new("bpftool");
    command.args(["map", "update"]).args(map).arg("key").args(key);
    output(command.arg("value").args(value)).map(drop)
}

/// Runs `bpftool map delete MAP key KEY`.
///
/// # Errors
/// When the kernel refuses.
pub fn delete(map: &[&str], key: &[String]) -> Result<()> {
    let mut command = Command::new("bpftool");
    output(command.args(["map", "delete"]).args(map).arg("key").args(key)).map(drop)
}

/// Id of a pinned program.
///
/// # Errors
/// When there is none.
pub fn program_id(pin: &Path) -> Result<u64> {
    let shown = json(&["prog", "show", "pinned"], pin)?;
    shown.get("id").and_then(Value::as_u64).with_context(|| format!("no id in {shown}"))
}

/// Entries of a pinned map as `bpftool map dump` formats them with the map's BTF: objects
/// with `key` and `value`, or `values` for each processor.
///
/// # Errors
/// When the map can not be dumped, or without BTF.
pub fn formatted_entries(pin: &Path) -> Result<Vec<Value>> {
    let dumped = json(&["map", "dump", "pinned"], pin)?;
    let entries = dumped.as_array().with_context(|| format!("not a list: {dumped}"))?;
    let formatted = entries.iter().map(|entry| entry.get("formatted").cloned());
    let formatted: Option<Vec<Value>> = formatted.collect();
    formatted.with_context(|| format!("{} has entries without BTF: {dumped:.300}", pin.display()))
}
