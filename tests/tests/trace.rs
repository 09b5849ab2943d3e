//! `pointsman trace`: packets as they came, with what became of them, for people and for tcpdump.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{
        enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
        opt_common::CommonOption,
    },
};
use serde_json::Value;
use testbed::{
    agent::{self, Agent},
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{Conversation, UdpConversation},
    configuration::Service,
    fleet::Fleet,
    namespace::output,
    process::{Process, wait_until},
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running trace.
struct Trace {
    process: Process,
    file: PathBuf,
}

impl Trace {
    /// Starts one and waits until it looks.
    fn start(bed: &Bed, agent: &Agent<'_>, name: &str, options: &[&str]) -> Result<Self> {
        let file = bed.directory().join(format!("{name}.pcapng"));
        let binary = agent::binary()?;
        let mut command = bed.balancer.command(binary.to_str().context("paths are text")?);
        command.arg("trace").arg("--socket").arg(agent.socket()).args(options);
        if let Some(option) = options.iter().position(|option| *option == "-w") {
            ensure!(option + 1 == options.len(), "the file is added here");
            command.arg(&file);
        }
        let process = Process::start(&mut command, &bed.directory().join(format!("{name}.log")))?;
        let mut trace = Self { process, file };
        trace.wait_for("tracing, ")?;
        Ok(trace)
    }

    fn wait_for(&mut self, words: &str) -> Result<()> {
        let waited = wait_until(&format!("{words:?}"), PATIENCE, || {
            if let Some(status) = self.process.ended()? {
                // It may have said so right before.
                let said = self.process.output();
                ensure!(said.contains(words), "it ended with {status}: {said}");
            }
            ensure!(self.process.output().contains(words), "{}", self.process.output());
            Ok(())
        });
        waited.map(drop)
    }

    /// Ends it as a user would; what it printed.
    fn interrupt(&mut self) -> Result<String> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", self.process.output());
        Ok(self.process.output())
    }
}

/// A packet of a file: the interface it came from, and its comment.
#[derive(Debug)]
struct Packet {
    interface: String,
    comment: String,
}

fn read(path: &Path) -> Result<Vec<Packet>> {
    let mut reader = PcapNgReader::new(File::open(path)?)?;
    let (mut interfaces, mut packets) = (BTreeMap::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block?.0 {
            Block::InterfaceDescription(block) => {
                let name = block.options.into_iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.into_owned()),
                    _ => None,
                });
                let number = u32::try_from(interfaces.len())?;
                interfaces.insert(number, name.context("an interface without a name")?);
            }
            Block::EnhancedPacket(block) => {
                let interface = interfaces.get(&block.interface_id).context("no interface")?;
                let comment = block.options.into_iter().find_map(|option| match option {
                    EnhancedPacketOption::Common(CommonOption::Comment(comment)) => {
                        Some(comment.into_owned())
                    }
                    _ => None,
                });
                let comment = comment.context("a packet without a comment")?;
                packets.push(Packet { interface: interface.clone(), comment });
            }
            _ => {}
        }
    }
    Ok(packets)
}

fn tcpdump(path: &Path, filter: &str) -> Result<Vec<String>> {
    let mut command = Command::new("tcpdump");
    command.args(["-n", "-r"]).arg(path).arg(filter);
    Ok(output(&mut command)?.lines().map(str::to_owned).collect())
}

/// Whether the traced data plane is attached to an interface: the program that is has more maps.
fn traced(bed: &Bed, agent: &Agent<'_>) -> Result<bool> {
    let mut traced = Vec::new();
    for interface in bed.interfaces() {
        let link = bpftool::json(
            &["link", "show", "pinned"],
            &agent.pin_directory().join(format!("link-{interface}")),
        )?;
        let program = link.get("prog_id").and_then(Value::as_u64).context("no program")?;
        let program = output(
            Command::new("bpftool").args(["-j", "prog", "show", "id"]).arg(program.to_string()),
        )?;
        let program: Value = serde_json::from_str(&program)?;
        let maps = program.get("map_ids").and_then(Value::as_array).context("no maps")?;
        let mut found = false;
        for map in maps {
            let shown = output(
                Command::new("bpftool").args(["-j", "map", "show", "id"]).arg(map.to_string()),
            )?;
            found |= shown.contains("TRACE_FILTER");
        }
        traced.push(found);
    }
    let first = traced.first().copied().context("no interfaces")?;
    ensure!(traced.iter().all(|traced| *traced == first), "some are: {traced:?}");
    Ok(first)
}

fn wait_for_the_end(bed: &Bed, agent: &Agent<'_>) -> Result<()> {
    let waited = wait_until("the data plane to be back", PATIENCE, || {
        ensure!(!traced(bed, agent)?, "it is traced");
        Ok(())
    });
    let names = fs::read_dir(agent.pin_directory())?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = names.collect::<Result<_>>()?;
    let stages = names.iter().filter(|name| name.to_string_lossy().starts_with("stages-"));
    ensure!(stages.count() == 1, "stages were left behind: {names:?}");
    waited.map(drop)
}

#[test]
fn a_connection_and_a_dropped_packet_are_in_a_file_for_tcpdump() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let host = Bed::client_address(Family::V4);
    let mut trace = Trace::start(&bed, &agent, "file", &["--host", &host.to_string(), "-w"])?;
    let vip = Bed::vip(Family::V4, port::LINE);
    bed.client.run(|| Ok(Conversation::open(vip)?.say()?))?;
    // The other family is another host.
    let other = Bed::vip(Family::V6, port::LINE);
    bed.client.run(|| Ok(Conversation::open(other)?.say()?))?;
    agent.cli_good(&["block", &host.to_string()])?;
    let target = Bed::vip(Family::V4, port::UDP);
    bed.client.run(|| Ok(UdpConversation::open(target)?.send_unanswered(9)?))?;
    let file = trace.file.clone();
    wait_until("the dropped packet", PATIENCE, || {
        let packets = read(&file)?;
        ensure!(packets.iter().any(|packet| packet.comment.starts_with("drop")), "{packets:?}");
        Ok(())
    })?;
    ensure!(traced(&bed, &agent)?, "nothing is traced");
    let said = trace.interrupt()?;
    ensure!(said.contains("packets, interrupted\n") && !said.contains("lost"), "{said}");
    wait_for_the_end(&bed, &agent)?;

    let packets = read(&file)?;
    let comment = |found: &dyn Fn(&Packet) -> bool| packets.iter().any(found);
    let server = |packet: &Packet| packet.interface != "client0";
    let sent = " as 198.51.100.10:";
    ensure!(
        comment(&|packet| packet.interface == "client0"
            && packet.comment.contains(" as 10.")
            && packet.comment.ends_with(&format!(":{} tcp", port::LINE))),
        "no packet was sent to a server: {packets:?}"
    );
    ensure!(
        comment(&|packet| server(packet) && packet.comment.contains(sent)),
        "no packet was sent to the client: {packets:?}"
    );
    ensure!(
        comment(&|packet| packet.comment
            == "drop; blocked: The operator blocks the source (`pointsman blocks`)."),
        "{packets:?}"
    );
    let lines = tcpdump(&file, "ip or ip6")?;
    ensure!(lines.len() == packets.len(), "{} of {}: {lines:?}", lines.len(), packets.len());
    // As they came: the client's to the VIP, the servers' to the balancer.
    let flags = |line: &str| line.contains(&format!("> {}.{}: Flags [S]", vip.ip(), vip.port()));
    ensure!(lines.iter().any(|line| flags(line)), "{lines:?}");
    ensure!(lines.iter().any(|line| line.contains("Flags [S.]")), "{lines:?}");
    ensure!(tcpdump(&file, "ip6")?.is_empty(), "another host's packets: {lines:?}");
    ensure!(tcpdump(&file, "udp")?.len() == 1, "{lines:?}");
    Ok(())
}

#[test]
fn a_trace_ends_whoever_ends_it() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    ensure!(!traced(&bed, &agent)?, "it is traced unasked");
    let vip = Bed::vip(Family::V6, port::LINE);
    let mut conversation = bed.client.run(|| Ok(Conversation::open(vip)?))?;

    // As many as asked for.
    let options = ["--vip", &vip.to_string(), "--proto", "tcp", "--count", "4"];
    let mut trace = Trace::start(&bed, &agent, "count", &options)?;
    let kept = bed.directory().join("kept.pcapng");
    fs::write(&kept, "of yesterday")?;
    let kept = kept.to_str().context("paths are text")?;
    let refused = agent.cli(&["trace", "-w", kept])?;
    ensure!(refused.code == Some(1), "two traces at once: {refused:?}");
    ensure!(refused.stderr.contains("somebody else traces packets"), "{refused:?}");
    ensure!(fs::read_to_string(kept)? == "of yesterday", "a refused trace emptied its file");
    conversation.say()?;
    bed.client.run(|| Ok(Conversation::open(vip)?.say()?))?;
    ensure!(trace.process.wait(PATIENCE)?.success(), "{}", trace.process.output());
    let said = trace.process.output();
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 6, "a line for each packet, one before and one after: {said}");
    let to_vip = format!(" > {vip} tcp, ");
    ensure!(lines.get(1).is_some_and(|line| line.contains(&to_vip)), "{said}");
    ensure!(
        lines.iter().filter(|line| line.contains(": redirect as ")).count() == 4
            || lines.iter().filter(|line| line.contains(": tx as ")).count() == 4,
        "{said}"
    );
    ensure!(said.ends_with("4 packets, as many as asked for\n"), "{said}");
    wait_for_the_end(&bed, &agent)?;

    // Time.
    let mut trace = Trace::start(&bed, &agent, "time", &["--duration", "1"])?;
    ensure!(trace.process.wait(PATIENCE)?.success(), "{}", trace.process.output());
    ensure!(trace.process.output().ends_with(", time is over\n"), "{}", trace.process.output());
    wait_for_the_end(&bed, &agent)?;

    // Nowhere to write, which is said before the data plane is changed.
    let refused = agent.cli(&["trace", "-w", "/proc/none"])?;
    ensure!(refused.code == Some(3), "{refused:?}");
    ensure!(refused.stderr.contains("could not write /proc/none"), "{refused:?}");
    ensure!(!refused.stderr.contains("tracing, "), "{refused:?}");

    // A crash of who looks.
    let mut trace = Trace::start(&bed, &agent, "crash", &[])?;
    ensure!(traced(&bed, &agent)?, "nothing is traced");
    trace.process.kill();
    wait_for_the_end(&bed, &agent)?;

    // An orderly end of the agent, and a crash: what is attached forwards, and the next agent
    // takes over.
    let _trace = Trace::start(&bed, &agent, "agent", &[])?;
    agent.stop()?;
    ensure!(!traced(&bed, &agent)?, "it is traced without an agent");
    agent.start()?;
    let _trace = Trace::start(&bed, &agent, "agent-crash", &[])?;
    agent.kill();
    ensure!(traced(&bed, &agent)?, "nothing is traced");
    conversation.say()?;
    bed.client.run(|| Ok(Conversation::open(vip)?.say()?))?;
    agent.start()?;
    ensure!(!traced(&bed, &agent)?, "the next agent left it");
    conversation.say()?;
    Ok(())
}
