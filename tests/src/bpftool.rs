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
