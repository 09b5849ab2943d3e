//! The agent and its operator without a data plane (`datapath.mode: off`): states, reloads,
//! crashes and signals, in a namespace that has the servers' address on its loopback.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pointsman::{
    admin::api::{ServerView, StatusView},
    model::state::ServerState,
};
use testbed::{agent::binary, namespace::Namespace};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

struct Agent {
    namespace: Namespace,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Agent {
    fn install() -> Self {
        let namespace = Namespace::create("operator").expect("namespaces can be made");
        namespace.ip(&["address", "add", "10.11.0.1/32", "dev", "lo"]).expect("lo is there");
        namespace.ip(&["link", "set", "lo", "up"]).expect("lo is there");
        let directory = tempfile::tempdir().expect("a directory for the test");
        Self { namespace, directory, process: None }
    }

    fn start(&mut self, servers: &[(&str, SocketAddr)]) {
        self.configure(servers, "");
        self.restart();
    }

    /// A server that accepts by its backlog.
    fn new_server(&self) -> (TcpListener, SocketAddr) {
        let listener = self.listen("10.11.0.1:0".parse().expect("is an address"));
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.namespace.run(|| Ok(TcpListener::bind(address)?));
        listener.expect("the address is free")
    }

    fn command(&self) -> Command {
        let binary = binary().expect("the binary is built");
        self.namespace.command(binary.to_str().expect("paths here are text"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, servers: &[(&str, SocketAddr)], more: &str) {
        let servers: String = servers
            .iter()
            .map(|(name, address)| format!("      {name}: \"{address}\"\n"))
            .collect();
        let text = format!(
            "datapath: {{mode: off}}\n\
             admin: {{socket: {}}}\n\
             log: {{access: {{target: {}}}}}\n\
             frontends:\n  web: {{mode: l4, bind: [\"127.0.0.1:8480\"], backend: pool}}\n\
             backends:\n  pool:\n    check: {{type: tcp, interval: 50ms, fall: 2, rise: 2}}\n\
             {}    servers:\n{servers}",
            self.path("admin.sock").display(),
            self.path("access.log").display(),
            more,
        );
        fs::write(self.path("p.yaml"), text).expect("the directory can be written");
    }

    fn restart(&mut self) {
        let log = fs::File::create(self.path("agent.log")).expect("the directory can be written");
        let process = self
            .command()
            .args(["run", "--config"])
            .arg(self.path("p.yaml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        self.process = Some(process);
        self.wait("the agent answers", |agent| agent.cli(&["status"]).status.success());
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        self.command()
            .args(arguments)
            .arg("--socket")
            .arg(self.path("admin.sock"))
            .output()
            .expect("the binary runs")
    }

    fn json<T: serde::de::DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let output = self.cli(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("the answer is as documented")
    }

    fn server(&self, name: &str) -> ServerView {
        let status: StatusView = self.json(&["status"]);
        let mut servers = status.backends.into_iter().flat_map(|backend| backend.servers);
        servers.find(|server| server.name == name).expect("the server is configured")
    }

    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "still waiting: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_state(&self, name: &str, state: ServerState) {
        self.wait(&format!("{name} is {state:?}"), |agent| agent.server(name).state == state);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the agent runs");
        kill(Pid::from_raw(process.id().cast_signed()), signal).expect("the agent lives");
    }

    /// Ends the agent by a signal; its exit code, none if the signal itself ended it.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let mut process = self.process.take().expect("the agent runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().expect("it is our child") {
                assert!(status.code().is_some() || status.signal() == Some(signal as i32));
                return status.code();
            }
            assert!(Instant::now() < deadline, "the agent does not end\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_server_that_dies_is_shown_down_and_one_that_returns_up() {
    let mut agent = Agent::install();
    let ((_one, one), (two, two_address)) = (agent.new_server(), agent.new_server());
    agent.start(&[("one", one), ("two", two_address)]);
    agent.wait("checks", |agent| agent.server("two").reason == "connected");
    drop(two);
    agent.wait_for_state("two", ServerState::Down);
    assert!(agent.server("two").reason.contains("refused"), "{:?}", agent.server("two"));
    let status: StatusView = agent.json(&["status"]);
    assert_eq!((status.backends[0].usable, status.backends[0].servers.len()), (1, 2));
    let _two = agent.listen(two_address);
    agent.wait_for_state("two", ServerState::Up);
    assert_eq!(agent.server("one").state, ServerState::Up);
}

#[test]
fn the_operators_word_and_a_death_survive_a_crash_of_the_agent() {
    let mut agent = Agent::install();
    let ((_one, one), (two, two_address)) = (agent.new_server(), agent.new_server());
    let (_three, three) = agent.new_server();
    agent.start(&[("one", one), ("two", two_address), ("three", three)]);
    drop(two);
    agent.wait_for_state("two", ServerState::Down);
    let drained: ServerView =
        agent.json(&["server", "set", "pool/one", "--state", "drain", "--weight", "7"]);
    assert_eq!((drained.state, drained.weight), (ServerState::Drain, 7));
    let _: ServerView = agent.json(&["server", "set", "pool/three", "--state", "maint"]);
    assert_eq!(agent.end(Signal::SIGKILL), None);
    // Nothing answers, but the file of the socket is still there.
    assert!(agent.path("admin.sock").exists());
    agent.restart();
    let states = ["one", "two", "three"].map(|name| agent.server(name).state);
    assert_eq!(states, [ServerState::Drain, ServerState::Down, ServerState::Maint]);
    assert_eq!(agent.server("one").weight, 7);
    let _two = agent.listen(two_address);
    agent.wait_for_state("two", ServerState::Up);
}

#[test]
fn a_reload_takes_effect_and_keeps_what_the_operator_said() {
    let mut agent = Agent::install();
    let ((_one, one), (_two, two)) = (agent.new_server(), agent.new_server());
    agent.start(&[("one", one)]);
    let _: ServerView = agent.json(&["server", "set", "pool/one", "--state", "drain"]);
    agent.configure(&[("one", one), ("two", two)], "");
    let output = agent.cli(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(agent.server("one").state, ServerState::Drain);
    assert_eq!(agent.server("two").state, ServerState::Up);
    agent.configure(&[("two", two)], "");
    agent.signal(Signal::SIGHUP);
    agent.wait("one is gone", |agent| {
        let status: StatusView = agent.json(&["status"]);
        status.backends[0].servers.len() == 1
    });
}

#[test]
fn a_faulty_reload_changes_nothing() {
    let mut agent = Agent::install();
    let (_one, one) = agent.new_server();
    agent.start(&[("one", one)]);
    agent.configure(&[("one", one)], "    balence: maglev\n    on_down: explode\n");
    let output = agent.cli(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("balence") && text.contains("explode"), "{text}");
    assert!(text.contains("2 faults"), "{text}");
    let status: StatusView = agent.json(&["status"]);
    assert_eq!(status.backends[0].servers.len(), 1);
    let reload = status.agent.last_reload.unwrap();
    assert_eq!((reload.accepted, reload.faults), (false, 2));
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let mut agent = Agent::install();
    let (_one, one) = agent.new_server();
    agent.start(&[("one", one)]);
    let second =
        agent.command().args(["run", "--config"]).arg(agent.path("p.yaml")).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another agent answers on"), "{said}");
    assert!(agent.cli(&["status"]).status.success());
}

#[test]
fn the_agent_ends_in_order_and_without_a_data_plane_answers_all_the_same() {
    let mut agent = Agent::install();
    let (_one, one) = agent.new_server();
    agent.start(&[("one", one)]);
    for command in ["flows", "drops", "blocks"] {
        assert_eq!(agent.cli(&[command]).status.code(), Some(0), "{command}");
    }
    let trace = agent.cli(&["trace"]);
    assert_eq!(trace.status.code(), Some(1));
    assert!(String::from_utf8(trace.stderr).unwrap().contains("without a data plane"));
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    assert!(!agent.path("admin.sock").exists());
    assert!(agent.log().contains("datapath.mode is off"), "{}", agent.log());
    agent.restart();
    assert_eq!(agent.end(Signal::SIGINT), Some(0));
}

#[test]
fn a_rotated_access_log_is_opened_again() {
    let mut agent = Agent::install();
    let (_one, one) = agent.new_server();
    agent.start(&[("one", one)]);
    fs::rename(agent.path("access.log"), agent.path("access.log.1")).unwrap();
    agent.signal(Signal::SIGUSR1);
    agent.wait("a new access log", |agent| agent.path("access.log").exists());
}
