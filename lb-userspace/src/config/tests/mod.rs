//! What the reader promises: examples load, faults read well, nothing makes it panic.

mod access;
mod faults;
mod hostile;
mod values;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use super::{ConfigError, Loaded, load, parse};

/// The example configurations.
fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

/// What `load` says of a file with these bytes; the file is called `c`.
fn load_bytes(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    match load(file.path()) {
        Ok(_) => "good".into(),
        Err(error) => error.to_string().replace(&file.path().display().to_string(), "c"),
    }
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let Loaded { warnings, .. } =
            load(&file).unwrap_or_else(|error| panic!("{}:\n{error}", file.display()));
        assert_eq!(warnings, [], "{}", file.display());
    }
}

#[test]
fn a_file_that_can_not_be_read_is_no_fault_of_its_content() {
    let missing = Path::new("/nonexistent/pointsman.yaml");
    let error = load(missing).unwrap_err();
    assert!(matches!(&error, ConfigError::Read { path, .. } if path == missing), "{error:?}");
    assert_eq!(error.to_string(), "can not read the configuration /nonexistent/pointsman.yaml");
    assert!(matches!(load(Path::new("/")), Err(ConfigError::Read { .. })));
}

#[test]
fn bytes_that_are_not_text_are_a_fault_with_a_line() {
    assert_eq!(
        load_bytes(b"log:\n  target: \xff\n"),
        "c:2: the file is not UTF-8 text (hint: save it as UTF-8)"
    );
    let utf16: Vec<u8> = "log: {}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [&[0xff, 0xfe][..], &utf16].concat();
    assert_eq!(load_bytes(&with_mark), "c:1: the file is not UTF-8 text (hint: save it as UTF-8)");
}

#[test]
fn a_byte_order_mark_is_no_fault() {
    assert_eq!(load_bytes(b"\xef\xbb\xbfdatapath: {mode: off}\n"), "good");
}

#[test]
fn faults_serialise_with_everything_a_program_needs() {
    let faults = parse("datapath: {mode: off}\nlog:\n  target: syslog\n", "c").unwrap_err();
    let json = serde_json::to_value(&faults).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "file": "c",
            "line": 3,
            "column": 11,
            "path": "log.target",
            "value": "syslog",
            "message": "\"syslog\" is not one of stderr, journald",
            "hint": null,
        }])
    );
}
