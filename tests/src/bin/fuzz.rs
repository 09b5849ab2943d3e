//! The fuzzer of the agent's parsers: libFuzzer, which keeps inputs that reach new code and
//! changes them further. `cargo xtask fuzz` builds it with instrumentation and runs it.
//!
//! `POINTSMAN_FUZZ_TARGET` names the parser; its seeds go to `POINTSMAN_FUZZ_SEEDS`, if set.

#![no_main]

use std::{env, fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use pointsman::fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

/// The parser that was asked for.
fn target() -> Target {
    let wanted = env::var("POINTSMAN_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.into_iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| panic!("POINTSMAN_FUZZ_TARGET is {wanted:?}, which is no parser"))
}

/// Before the corpus is read.
fn begin() {
    let target = target();
    if let Some(directory) = env::var_os("POINTSMAN_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, seed) in target.seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed).expect("seeds are written");
        }
    }
    TARGET.set(target).expect("this runs once");
}

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let target = TARGET.get().expect("set in the beginning");
    (target.run)(bytes);
});
