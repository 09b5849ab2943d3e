//! Builds the BPF objects that the agent embeds and puts them into `OUT_DIR`.
//!
//! Owns the one command line that turns `lb-ebpf` into ELF files. It must not know what
//! is in them. All profiles of the agent share one target directory
//! (`target/ebpf`), so that switching profile costs nothing.
//!
//! `POINTSMAN_EBPF_DIRECTORY` names a directory with prebuilt objects, for hosts without
//! the BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// The objects, by the names of the binaries in `lb-ebpf`.
const OBJECTS: [&str; 5] = ["pointsman", "traced", "checks", "bench", "testbed"];
const TARGET: &str = "bpfel-unknown-none";
const PREBUILT: &str = "POINTSMAN_EBPF_DIRECTORY";
/// What would let flags or wrappers meant for the host reach the BPF compiler.
const HOST_ONLY: [&str; 9] = [
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

fn main() -> Result<()> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = package.parent().context("the agent's crate is not in a workspace")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    watch(root);
    let built = match env::var_os(PREBUILT) {
        Some(directory) => PathBuf::from(directory),
        None => build(root, &out)?,
    };
    for object in OBJECTS {
        let source = built.join(object);
        let copy = out.join(format!("{object}.o"));
        fs::copy(&source, &copy)
            .with_context(|| format!("could not copy the BPF object {}", source.display()))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo did not set {name}"))
}

fn watch(root: &Path) {
    let inputs = ["lb-ebpf", "lb-common", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];
    for input in inputs {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PREBUILT}");
}

/// Compiles the objects; the directory they are in.
fn build(root: &Path, out: &Path) -> Result<PathBuf> {
    let toolchain = toolchain(root)?;
    let sysroot = sysroot(&toolchain)?;
    require_linker()?;
    let target_directory = target_directory(out)?.join("ebpf");
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", &toolchain, "cargo", "build", "--release", "--package", "lb-ebpf", "--bins"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target_directory)
        .current_dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, &sysroot)?.join("\x1f"));
    if env::var_os("CARGO_FEATURE_DATAPLANE_LOG").is_some() {
        cargo.args(["--features", "log"]);
    }
    for name in HOST_ONLY {
        cargo.env_remove(name);
    }
    let status = cargo.status().context("could not run rustup")?;
    ensure!(
        status.success(),
        "the BPF objects did not build ({status}); the compiler's words are above"
    );
    Ok(target_directory.join(TARGET).join("release"))
}

/// The compiler that `rust-toolchain.toml` pins for both halves.
fn toolchain(root: &Path) -> Result<String> {
    let path = root.join("rust-toolchain.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{} names no channel", path.display()))
}

/// Where the toolchain is, after a look that it can build `core`.
fn sysroot(toolchain: &str) -> Result<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .context(
            "could not run rustup, which builds the BPF objects; install it from https://rustup.rs",
        )?;
    ensure!(
        output.status.success(),
        "the toolchain {toolchain} is missing: run `cargo xtask setup`\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).context("the sysroot's path is not UTF-8")?;
    let sysroot = PathBuf::from(text.trim_end());
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
        bail!(
            "the component rust-src of toolchain {toolchain} is missing, and building for BPF \
             needs it: run `cargo xtask setup`"
        );
    }
    Ok(sysroot)
}

fn require_linker() -> Result<()> {
    let found = Command::new("bpf-linker").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        bail!("bpf-linker is missing, and linking for BPF needs it: run `cargo xtask setup`");
    }
    Ok(())
}

/// The workspace's target directory, from `TARGET_DIR[/TRIPLE]/PROFILE/build/NAME/out`.
fn target_directory(out: &Path) -> Result<PathBuf> {
    let above_profile = out.ancestors().nth(4).context("OUT_DIR has an unknown shape")?;
    let triple = variable("TARGET")?;
    let crossed = above_profile.file_name().is_some_and(|name| name == triple.as_str());
    let directory = if crossed { above_profile.parent() } else { Some(above_profile) };
    directory.map(Path::to_path_buf).context("OUT_DIR has an unknown shape")
}

/// `target-cpu=v3`: the oldest that has the atomic instructions the counters need.
/// `allows-misaligned-mem-access`: header fields stand at odd multiples of two; without it
/// every one is loaded byte by byte. Paths are remapped so that every machine builds the
/// same bytes.
fn flags(root: &Path, sysroot: &Path) -> Result<Vec<String>> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().context("neither CARGO_HOME nor HOME is set")?.join(".cargo"),
    };
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    Ok(vec![
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2".into(),
        "-Ctarget-cpu=v3".into(),
        "-Ctarget-feature=+allows-misaligned-mem-access".into(),
        "-Clink-arg=--btf".into(),
        format!("--remap-path-prefix={}=.", root.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
        format!("--remap-path-prefix={}=/rust", sysroot.display()),
    ])
}
