//! The binary itself: exit codes, and what is said where.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

fn pointsman(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn check(arguments: &[&str], code: i32, stderr: &str) {
    let output = pointsman(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(stderr), "{arguments:?} said: {said}");
}

/// Answers one request with a fixed response, on a thread.
fn agent_that_answers(socket: &Path, status: &'static str, body: &'static str) {
    let listener = UnixListener::bind(socket).expect("the socket is free");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client connects");
        let mut lines = BufReader::new(&stream).lines();
        while lines.next().is_some_and(|line| !line.expect("is text").is_empty()) {}
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        (&stream).write_all((head + body).as_bytes()).expect("the client reads");
    });
}

#[test]
fn help_and_version_are_good() {
    check(&["--help"], 0, "");
    check(&["--version"], 0, "");
}

#[test]
fn usage_faults_exit_with_2() {
    check(&[], 2, "Usage:");
    check(&["stauts"], 2, "status");
    check(&["server", "set", "pg/pg1"], 2, "--state");
    check(&["server", "set", "pg1", "--weight", "1"], 2, "BACKEND/SERVER");
    check(&["server", "set", "pg/pg1", "--state", "up"], 2, "maint");
    check(&["flows", "--limit", "0"], 2, "--limit");
}

#[test]
fn check_says_whether_a_configuration_is_good() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.yaml");
    let path = path.to_str().unwrap();
    check(&["check", path], 3, "can not read the configuration");
    std::fs::write(path, "datapath: {mode: off}\n").unwrap();
    check(&["check", path], 0, "");
    std::fs::write(path, "datapath: {mode: sideways}\nfrontend: {}\n").unwrap();
    let output = pointsman(&["check", path, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["valid"], false);
    assert_eq!(result["faults"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(pointsman(&["check", path]).stdout).unwrap();
    assert!(text.contains("p.yaml:1: datapath.mode: ") && text.ends_with("2 faults\n"), "{text}");
}

#[test]
fn run_refuses_a_faulty_configuration_with_all_its_faults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.yaml");
    std::fs::write(&path, "datapath: {mode: sideways}\nfrontend: {}\n").unwrap();
    check(&["run", "--config", path.to_str().unwrap()], 1, "2 faults");
    check(&["run", "--config", "/nonexistent.yaml"], 3, "can not read the configuration");
}

#[test]
fn without_an_agent_commands_exit_with_3_and_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("admin.sock");
    let missing = missing.to_str().unwrap();
    for command in ["status", "flows", "drops", "reload"] {
        check(&[command, "--socket", missing], 3, "pointsman run");
    }
    check(&["server", "set", "a/b", "--weight", "1", "--socket", missing], 3, "pointsman run");
    let dead = directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    check(&["status", "--socket", dead.to_str().unwrap()], 3, "pointsman run");
}

#[test]
fn a_refusal_of_the_agent_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let body = r#"{"error": "there is no server 'x'", "hint": "see `pointsman status`"}"#;
    agent_that_answers(&socket, "404 Not Found", body);
    let arguments = ["server", "set", "pg/x", "--weight", "1", "--socket"];
    check(&[&arguments[..], &[socket.to_str().unwrap()]].concat(), 1, "there is no server 'x'");
}

#[test]
fn a_refused_reload_lists_every_fault_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let body = r#"{"accepted": false, "warnings": [], "faults": [
        {"file": "p.yaml", "line": 4, "column": 9, "path": "backends.pg.check.fall",
         "value": "0", "message": "0 is less than 1", "hint": "3 is the default"},
        {"file": "p.yaml", "line": null, "column": null, "path": "", "value": null,
         "message": "no frontends", "hint": null}]}"#;
    for json in [false, true] {
        let socket = directory.path().join(format!("{json}.sock"));
        agent_that_answers(&socket, "200 OK", body);
        let mut arguments = vec!["reload", "--socket", socket.to_str().unwrap()];
        arguments.extend(json.then_some("--json"));
        let output = pointsman(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        if json {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["faults"][0]["line"], 4);
        } else {
            assert!(text.contains(
                "p.yaml:4: backends.pg.check.fall: 0 is less than 1\n    hint: 3 is the default\n"
            ), "{text}");
            assert!(text.contains("2 faults") && text.contains("stays in force"), "{text}");
        }
    }
}

#[test]
fn tables_and_json_show_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let body =
        r#"{"drops": [{"reason": "fragment", "packets": 12, "description": "A fragment."}]}"#;
    let socket = directory.path().join("t.sock");
    agent_that_answers(&socket, "200 OK", body);
    let output = pointsman(&["drops", "--socket", socket.to_str().unwrap()]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "REASON    PACKETS  DESCRIPTION\nfragment       12  A fragment.\n"
    );
    let socket = directory.path().join("j.sock");
    agent_that_answers(&socket, "200 OK", body);
    let output = pointsman(&["drops", "--json", "--socket", socket.to_str().unwrap()]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(body).unwrap());
}

#[test]
fn an_answer_of_another_version_exits_with_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    agent_that_answers(&socket, "200 OK", "[]");
    check(&["status", "--socket", socket.to_str().unwrap()], 3, "another version");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = pointsman(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("pointsman"));
    }
}
