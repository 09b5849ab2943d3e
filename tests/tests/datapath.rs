//! The loader, the pins, the maps and the sweep against the kernel.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::maps::{Map, MapData, ProgramArray};
use lb_common::{
    abi::{self, ABI_VERSION, MAX_VIPS, RING_SLOTS, map},
    access::AdmissionEntry,
    address::{Address4, Address6, Be16},
    backend::BackendEntry,
    event::{FlowEnd, cause},
    flow::{Direction, FlowEntry4, FlowKey4, Handle},
    forward::Forward,
    ring::RingSlot,
    server::{ServerEntry, ServerFlows, state},
    settings::Settings,
    stage::Stage,
    tcp_state::Progress,
    timeouts::Timeouts,
    trace::Filter,
    vip::{FilterWord, VipEntry, VipKey, on_down},
};
use pointsman::{
    clock::Moment,
    datapath::{
        Attachment, Capacities, DataPlane, DatapathError, EventReader, FlowTables, LockedPins,
        Maps, Pins, Settler, Traced, adoptable,
        batch::BatchMap,
        error::{InterfaceError, MapAccessError, PinsError},
        flows, loader,
        sweep::sweep,
    },
    model::{
        flow::{Flow, Selection},
        name::Name,
        next_hop::NextHop,
        snapshot::{AttachMode, Bind, Protocol, SynCookies},
    },
    reconcile::{Actual, Desired, DesiredServer, DesiredVip, Plan, apply, plan},
};
use testbed::{
    bpffs::{self, PinDirectory},
    bpftool,
    namespace::{Namespace, output},
    process::wait_until,
    stub::Stub,
    sweep_bench,
};

const SMALL: Capacities = Capacities { flows: 4096, half_open: 256, prefixes: 1024, sources: 1024 };

/// A pin directory and a namespace with the device `here0`, all removed at the end.
struct Bench {
    here: Namespace,
    directory: PinDirectory,
}

impl Bench {
    fn new() -> Result<Self> {
        bpffs::mount_if_missing()?;
        let bench = Self { here: Namespace::create("here")?, directory: PinDirectory::unique() };
        bench.add_device()?;
        Ok(bench)
    }

    fn add_device(&self) -> Result<()> {
        self.here.ip(&["link", "add", "here0", "type", "veth", "peer", "name", "peer0"])?;
        self.here.ip(&["link", "set", "here0", "up"])?;
        self.here.ip(&["link", "set", "peer0", "up"])
    }

    fn pins(&self) -> Pins {
        Pins::new(self.directory.path())
    }

    fn load(&self) -> Result<DataPlane, DatapathError> {
        DataPlane::load(LockedPins::acquire(self.pins())?, SMALL)
    }

    /// Attaches in the namespace.
    fn attach(
        &self,
        plane: &mut DataPlane,
        device: &str,
        mode: AttachMode,
    ) -> Result<Result<Attachment, DatapathError>> {
        let attached = self.here.run(|| Ok(plane.attach(device, mode)))?;
        Ok(attached.map(|attachment| attachment.expect("the mode is not off")))
    }

    /// What `ip` says is attached to a device: `xdp` (native) or `xdpgeneric`, and the id.
    fn attached(&self, device: &str) -> Result<Option<(String, u64)>> {
        let text = output(self.here.command("ip").args(["-j", "link", "show", device]))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let Some(xdp) = links[0].get("xdp") else { return Ok(None) };
        let mode = if xdp["mode"] == 2 { "xdpgeneric" } else { "xdp" };
        Ok(Some((mode.into(), xdp["prog"]["id"].as_u64().context("a program id")?)))
    }

    /// How many stages a pinned array has.
    fn stages_of(&self, pin: &Path) -> Result<usize> {
        let map = Map::ProgramArray(MapData::from_pin(pin)?);
        Ok(ProgramArray::try_from(map)?.indices().count())
    }

    /// The kernel lets go of a link some time after its pin is gone (RCU).
    fn wait_detached(&self, device: &str) -> Result<()> {
        let detached = wait_until("the program to be gone", Duration::from_secs(5), || {
            ensure!(self.attached(device)?.is_none(), "it is still attached");
            Ok(())
        });
        detached.map(drop)
    }
}

#[test]
fn a_restart_adopts_the_maps_and_the_programs() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    ensure!(!plane.adopted(), "the maps are new");
    let attachment = bench.attach(&mut plane, "here0", AttachMode::Native)??;
    ensure!(!attachment.generic && !attachment.replaced && attachment.fallback.is_none());
    let before = bench.attached("here0")?.context("attached")?;
    ensure!(before.0 == "xdp", "attached as {}", before.0);
    let mut settings = plane.maps()?.settings()?;
    ensure!(settings.abi_version == ABI_VERSION);
    settings.snat_port_low = 4321;
    plane.maps()?.set_settings(&settings)?;
    drop(plane);

    ensure!(bench.attached("here0")? == Some(before.clone()), "it outlives its loader");
    let mut plane = bench.load()?;
    ensure!(plane.adopted() && plane.adopted_programs(), "maps and programs are adopted");
    ensure!(plane.maps()?.settings()?.snat_port_low == 4321, "with what was in them");
    ensure!(plane.capacities_kept().is_empty());
    ensure!(bench.attached("here0")? == Some(before.clone()), "loading replaces nothing yet");
    let attachment = bench.attach(&mut plane, "here0", AttachMode::Auto)??;
    ensure!(attachment.replaced && !attachment.generic);
    let after = bench.attached("here0")?.context("attached")?;
    ensure!(after == before, "the same program");
    ensure!(bench.pins().linked_interfaces()? == ["here0"]);
    ensure!(bench.pins().program().exists());
    // What is adopted works as what was loaded: it answers, and goes to other interfaces.
    plane.test_run(&tcp_packet(etherparse::PacketBuilderStep::syn)?)?;
    bench.attach(&mut plane, "lo", AttachMode::Generic)??;
    ensure!(bench.attached("lo")?.is_some_and(|(_, id)| id == before.1));
    ensure!(plane.detach("lo")?);
    // It comes back after a trace, with its stages.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let traced = Traced::load(plane.pins(), &Filter::default())?;
    let _records = bench.here.run(|| runtime.block_on(async { Ok(plane.trace(traced)?) }))?;
    ensure!(bench.attached("here0")?.is_some_and(|(_, id)| id != before.1), "it is not traced");
    adoptable(&bench.pins()).expect_err("another program is in its place");
    bench.here.run(|| Ok(plane.end_trace()?))?;
    ensure!(bench.attached("here0")? == Some(before), "it is not back");
    adoptable(&bench.pins())?;

    ensure!(plane.detach("here0")? && !plane.detach("here0")?);
    bench.wait_detached("here0")?;
    Ok(())
}

/// Programs that nobody can vouch for are loaded anew: each of these could be what another agent,
/// an upgrade, or an operator with `bpftool` leaves behind.
#[test]
fn pinned_programs_in_doubt_are_not_adopted() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    ensure!(!plane.adopted_programs());
    let pins = bench.pins();
    let doubted = |expected: &str| -> Result<()> {
        let doubt = adoptable(&pins).expect_err(expected).to_string();
        ensure!(doubt.contains(expected), "{doubt}, not {expected}");
        Ok(())
    };
    doubted("a note of what was loaded is not pinned")?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    let (_, first) = bench.attached("here0")?.context("attached")?;
    drop(plane);
    adoptable(&pins)?;

    // A pin that is missing, or another thing's.
    let aside = pins.map("aside");
    let stages = pins.all_stages()?.pop().context("an array of stages")?;
    let fragments = pins.map(map::FRAGMENTS6);
    let settle = pins.run_by_agent(abi::SETTLE);
    for (pin, expected) in [
        (pins.origin(), "a note"),
        (pins.program(), "the program"),
        (pins.run_by_agent(abi::EXPIRE6), "a program behind the sweep"),
        (stages.clone(), "the array of stages"),
        (fragments.clone(), "a map"),
    ] {
        fs::rename(&pin, &aside)?;
        doubted(expected).with_context(|| format!("without {}", pin.display()))?;
        fs::rename(&aside, &pin)?;
    }
    for (kind, pin, other, expected) in [
        ("prog", pins.program(), settle.clone(), "the program differ"),
        ("prog", settle.clone(), pins.program(), "the programs behind the sweep differ"),
        ("map", fragments, pins.map(map::FRAGMENTS4), "the maps differ"),
    ] {
        fs::rename(&pin, &aside)?;
        output(Command::new("bpftool").args([kind, "pin", "pinned"]).args([&other, &pin]))?;
        doubted(expected).with_context(|| format!("at {}", pin.display()))?;
        fs::rename(&aside, &pin)?;
    }
    adoptable(&pins)?;

    // The same note where anybody could have changed it; one of another object.
    let noted = bpftool::raw_entries(&["pinned", pins.origin().to_str().context("a path")?])?;
    let mut noted = noted.first().context("nothing noted")?.value.clone();
    fs::rename(pins.origin(), &aside)?;
    make_note(&pins.origin(), &noted, false)?;
    doubted("not an agent's")?;
    noted[0] = if noted[0] == "0x00" { "0x01".into() } else { "0x00".into() };
    fs::remove_file(pins.origin())?;
    make_note(&pins.origin(), &noted, true)?;
    doubted("the object and how it is loaded differ")?;
    fs::rename(&aside, pins.origin())?;
    adoptable(&pins)?;

    // One stage in the place of another, with which a start goes on by loading all anew.
    let pinned = ["pinned", stages.to_str().context("a path in UTF-8")?];
    let key = |stage: Stage| (stage as u32).to_ne_bytes().map(|byte| format!("0x{byte:02x}"));
    let value = ["pinned", settle.to_str().context("a path in UTF-8")?];
    bpftool::update(&pinned, &key(Stage::Echo4), value)?;
    doubted("the stages differ")?;
    let mut plane = bench.load()?;
    ensure!(plane.adopted() && !plane.adopted_programs());
    doubted("")?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    let (_, second) = bench.attached("here0")?.context("attached")?;
    ensure!(second != first, "the program was not replaced");
    adoptable(&pins)?;
    Ok(())
}

/// Makes a note of what was loaded, frozen or not.
fn make_note(path: &Path, value: &[String], frozen: bool) -> Result<()> {
    let path = path.to_str().context("a path in UTF-8")?;
    let size = value.len().to_string();
    let create = ["map", "create", path, "type", "array", "key", "4", "value", &size];
    let create = create.iter().chain(&["entries", "1", "name", "origin"]);
    output(Command::new("bpftool").args(create))?;
    let key = ["0x00"; 4].map(str::to_owned);
    bpftool::update(&["pinned", path], &key, value.iter().map(String::as_str))?;
    if frozen {
        output(Command::new("bpftool").args(["map", "freeze", "pinned", path]))?;
    }
    Ok(())
}

#[test]
fn stages_stay_as_long_as_an_interface_needs_them() -> Result<()> {
    let bench = Bench::new()?;
    bench.here.ip(&["link", "add", "here1", "type", "veth", "peer", "name", "peer1"])?;
    let mut plane = bench.load()?;
    ensure!(bench.pins().all_stages()?.is_empty(), "nothing is attached yet");
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    bench.attach(&mut plane, "here1", AttachMode::Native)??;
    let first = bench.pins().all_stages()?;
    ensure!(first.len() == 1, "one for both interfaces: {first:?}");
    ensure!(bench.stages_of(&first[0])? == Stage::ALL.len(), "every stage is there");
    drop(plane);
    ensure!(bench.stages_of(&first[0])? == Stage::ALL.len(), "and stays without its loader");

    // As an upgrade: nobody knows that they are the same.
    fs::remove_file(bench.pins().origin())?;
    let mut plane = bench.load()?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    ensure!(bench.pins().all_stages()?.len() == 2, "the other interface has the old program");
    ensure!(bench.stages_of(&first[0])? == Stage::ALL.len(), "which can still hand on");
    bench.attach(&mut plane, "here1", AttachMode::Native)??;
    let second = bench.pins().all_stages()?;
    ensure!(second.len() == 1 && second != first, "only the new ones are left: {second:?}");

    plane.detach("here0")?;
    ensure!(bench.pins().all_stages()? == second);
    plane.detach("here1")?;
    ensure!(bench.pins().all_stages()?.is_empty(), "nothing needs them any more");
    Ok(())
}

#[test]
fn two_agents_do_not_share_a_directory() -> Result<()> {
    let bench = Bench::new()?;
    let first = LockedPins::acquire(bench.pins())?;
    let error = LockedPins::acquire(bench.pins()).expect_err("it is taken");
    ensure!(matches!(error, DatapathError::Pins(PinsError::Locked { .. })), "{error}");
    drop(first);
    LockedPins::acquire(bench.pins())?;
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(bench.directory.path())?);
    ensure!(mode & 0o777 == 0o700, "the directory has mode {mode:o}");
    Ok(())
}

#[test]
fn a_foreign_abi_version_is_refused_and_goes_on_forwarding() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    let before = bench.attached("here0")?;
    let foreign = Settings { abi_version: 4711, ..Settings::default() };
    plane.maps()?.set_settings(&foreign)?;
    drop(plane);
    let error = bench.load().expect_err("a foreign version");
    let text = error.to_string();
    ensure!(text.contains("4711") && text.contains("rm -r"), "{text}");
    ensure!(bench.attached("here0")? == before, "the running program was not touched");
    Ok(())
}

/// Maps are pinned one after the other; whatever is there, no start may be stuck with it.
#[test]
fn pins_of_an_agent_that_was_killed_in_its_first_start_are_made_anew() -> Result<()> {
    let bench = Bench::new()?;
    let remove = |name: &str| fs::remove_file(bench.pins().map(name));
    for case in ["killed after the first pin", "before the last", "before the version was set"] {
        let plane = bench.load()?;
        match case {
            "killed after the first pin" => {
                map::ALL
                    .iter()
                    .filter(|name| **name != map::FLOWS4)
                    .try_for_each(|name| remove(name))?;
            }
            "before the last" => remove(map::SETTINGS)?,
            _ => {
                let unwritten = Settings { abi_version: 0, ..Settings::default() };
                plane.maps()?.set_settings(&unwritten)?;
            }
        }
        drop(plane);
        // The next start has another configuration.
        let pins = LockedPins::acquire(bench.pins())?;
        let plane =
            DataPlane::load(pins, Capacities { flows: 8192, ..SMALL }).with_context(|| case)?;
        ensure!(!plane.adopted(), "{case}: maps of the dead agent were adopted");
        ensure!(plane.capacities_kept().is_empty(), "{case}: with their capacity");
        ensure!(plane.maps()?.settings()?.abi_version == ABI_VERSION);
        loader::remove(plane.pins(), false)?;
    }
    Ok(())
}

#[test]
fn pins_without_a_version_that_forward_are_left_alone() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    let before = bench.attached("here0")?;
    fs::remove_file(plane.pins().map(map::SETTINGS))?;
    drop(plane);
    let error = bench.load().expect_err("nobody knows the version");
    ensure!(error.to_string().contains("unknown"), "{error}");
    ensure!(bench.attached("here0")? == before, "the running program was not touched");
    Ok(())
}

#[test]
fn a_pinned_map_of_another_shape_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    drop(bench.load()?);
    let pin = bench.pins().map(map::VIPS);
    fs::remove_file(&pin)?;
    let other = aya::maps::HashMap::<MapData, u32, u64>::create(16, 0)?;
    other.pin(&pin)?;
    let error = bench.load().expect_err("another key size");
    let text = error.to_string();
    ensure!(text.contains("VIPS has key size 4") && text.contains("needs 24"), "{text}");
    Ok(())
}

#[test]
fn a_changed_capacity_keeps_the_flows_and_says_so() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let key = FlowKey4 { protocol: 6, ..FlowKey4::default() };
    let flows = |plane: &DataPlane| -> Result<BatchMap<FlowKey4, FlowEntry4>> {
        Ok(BatchMap::new(map::FLOWS4, MapData::from_pin(plane.pins().map(map::FLOWS4))?)?)
    };
    flows(&plane)?.update(&[key], &[FlowEntry4::default()])?;
    drop(plane);
    let pins = LockedPins::acquire(bench.pins())?;
    let plane = DataPlane::load(pins, Capacities { flows: 8192, ..SMALL })?;
    let kept: Vec<_> = plane.capacities_kept().iter().map(|kept| (kept.map, kept.pinned)).collect();
    ensure!(kept == [(map::FLOWS4, 4096), (map::FLOWS6, 4096)], "{kept:?}");
    ensure!(flows(&plane)?.get(&key)?.is_some(), "the flow is still there");
    Ok(())
}

#[test]
fn a_failed_load_leaves_no_pins() -> Result<()> {
    let bench = Bench::new()?;
    let pins = LockedPins::acquire(bench.pins())?;
    let error = DataPlane::load(pins, Capacities { flows: u32::MAX, ..SMALL })
        .expect_err("no machine has the memory");
    ensure!(error.to_string().contains("datapath.max_flows"), "{error}");
    let left: Vec<_> = fs::read_dir(bench.directory.path())?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn faults_of_an_interface_are_named() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    let error = bench.attach(&mut plane, "nowhere0", AttachMode::Auto)?.expect_err("missing");
    ensure!(matches!(error, DatapathError::Interface(InterfaceError::Missing { .. })), "{error}");

    let stub = Stub::attach(&bench.here, "here0")?;
    let (_, id) = bench.attached("here0")?.context("the stub")?;
    for mode in [AttachMode::Native, AttachMode::Auto, AttachMode::Generic] {
        let error = bench.attach(&mut plane, "here0", mode)?.expect_err("taken");
        ensure!(error.to_string().contains(&format!("XDP program {id};")), "{error}");
    }
    ensure!(bench.attached("here0")?.is_some_and(|(_, now)| now == id), "the stub stays");
    drop(stub);
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    Ok(())
}

#[test]
fn auto_falls_back_to_generic_and_says_why_and_native_does_not() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    // Loopback has no native XDP.
    let error = bench.attach(&mut plane, "lo", AttachMode::Native)?.expect_err("refused");
    ensure!(error.to_string().contains("datapath.mode: generic"), "{error}");
    let attachment = bench.attach(&mut plane, "lo", AttachMode::Auto)??;
    ensure!(attachment.generic && attachment.fallback.is_some(), "{attachment:?}");
    ensure!(bench.attached("lo")?.is_some_and(|(mode, _)| mode == "xdpgeneric"));
    // A mode that the driver refuses does not cost the mode that works.
    bench.attach(&mut plane, "lo", AttachMode::Native)?.expect_err("refused");
    ensure!(bench.attached("lo")?.is_some_and(|(mode, _)| mode == "xdpgeneric"));

    bench.attach(&mut plane, "here0", AttachMode::Generic)??;
    ensure!(bench.attached("here0")?.is_some_and(|(mode, _)| mode == "xdpgeneric"));
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    ensure!(bench.attached("here0")?.is_some_and(|(mode, _)| mode == "xdp"));
    Ok(())
}

#[test]
fn an_interface_that_was_made_anew_is_attached_anew() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    bench.here.ip(&["link", "del", "here0"])?;
    bench.add_device()?;
    ensure!(bench.attached("here0")?.is_none(), "the new device has no program");
    let attachment = bench.attach(&mut plane, "here0", AttachMode::Native)??;
    ensure!(!attachment.replaced, "{attachment:?}");
    ensure!(bench.attached("here0")?.is_some());
    Ok(())
}

#[test]
fn removal_detaches_and_keeps_the_maps_if_asked() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    bench.attach(&mut plane, "here0", AttachMode::Native)??;
    loader::remove(plane.pins(), true)?;
    bench.wait_detached("here0")?;
    drop(plane);
    let plane = bench.load()?;
    ensure!(plane.adopted());
    loader::remove(plane.pins(), false)?;
    let left: Vec<_> = fs::read_dir(bench.directory.path())?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn every_map_reads_back_what_was_written() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let mut maps = plane.maps()?;
    let key = VipKey { port: Be16::new(80), protocol: 6, ..VipKey::default() };
    let vip = VipEntry { id: 3, generation: 9, ..VipEntry::default() };
    maps.put_vip(&key, &vip)?;
    ensure!(maps.vips()? == [(key, vip)]);
    maps.remove_vip(&key)?;
    maps.remove_vip(&key)?;
    ensure!(maps.vips()?.is_empty());

    let server = ServerEntry { generation: 2, state: state::UP, ..ServerEntry::default() };
    maps.put_server(4095, &server)?;
    ensure!(maps.servers()?.get(4095) == Some(&server));
    maps.put_server(4096, &server).expect_err("one too many");
    let backend = BackendEntry { ring_members: 7, generation: 1, ..BackendEntry::default() };
    maps.put_backend(511, &backend)?;
    ensure!(maps.backends()?.get(511) == Some(&backend));
    maps.set_filter_word(1023, FilterWord { bits: 5 })?;
    ensure!(maps.filter()?.get(1023) == Some(&FilterWord { bits: 5 }));

    ensure!(maps.ring(5)?.is_none() && maps.rings()?.is_empty());
    let slot = |id| RingSlot { server: Handle { id, generation: 1 } };
    let slots: Vec<_> = (0..RING_SLOTS).map(|index| slot((index % 3) as u16)).collect();
    maps.set_ring(5, &slots)?;
    ensure!(maps.ring(5)? == Some(slots) && maps.rings()? == [5]);
    ensure!(maps.exchanged_rings()?.is_empty());
    // With many servers it is in the other map, and in one of them at any time.
    let many: Vec<_> = (0..RING_SLOTS).map(|index| slot((index % 300) as u16)).collect();
    let few = maps.ring(5)?.context("a ring")?;
    for (ring, place, other) in [
        (&many, map::LARGE_RINGS, map::RINGS),
        (&few, map::RINGS, map::LARGE_RINGS),
        (&many, map::LARGE_RINGS, map::RINGS),
    ] {
        maps.set_ring(5, ring)?;
        ensure!(maps.ring(5)?.as_ref() == Some(ring) && maps.rings()? == [5]);
        ensure!(maps.exchanged_rings()?.is_empty());
        let at = |name| -> Result<Option<u32>> {
            let data = MapData::from_pin(bench.pins().map(name))?;
            Ok(BatchMap::<u32, u32>::new(name, data)?.get(&5)?)
        };
        ensure!(at(place)?.is_some() && at(other)?.is_none(), "it is not in {place} alone");
    }
    let error = maps.set_ring(5, &[slot(1)]).expect_err("too short");
    ensure!(matches!(error, MapAccessError::RingSlots { found: 1, .. }), "{error}");
    maps.clear_ring(5)?;
    maps.clear_ring(5)?;
    ensure!(maps.ring(5)?.is_none());

    maps.zero_vip_counters(Handle { id: 3, generation: 9 })?;
    let counters = maps.vip_counters(3)?;
    ensure!(counters.generation == 9 && counters.forward_packets == 0, "{counters:?}");
    maps.zero_server_counters(Handle { id: 4095, generation: 2 })?;
    ensure!(maps.server_counters(4095)?.generation == 2);
    ensure!(maps.drops()?.iter().all(|(_, packets)| *packets == 0));
    Ok(())
}

#[test]
fn a_full_vip_map_says_so() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let mut maps = plane.maps()?;
    let key = |index: u32| VipKey {
        address: Address6::mapped(Address4::new(index.to_be_bytes())),
        ..VipKey::default()
    };
    for index in 0..2 * MAX_VIPS {
        maps.put_vip(&key(index), &VipEntry::default())?;
    }
    let error = maps.put_vip(&key(2 * MAX_VIPS), &VipEntry::default()).expect_err("full");
    ensure!(error.to_string() == "map VIPS is full (1024 entries)", "{error}");
    Ok(())
}

#[test]
fn batches_see_every_entry_once_and_delete_what_is_there() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let table = confirmed(&plane)?;
    let key = |index: u16| FlowKey4 { source_port: Be16::new(index), ..FlowKey4::default() };
    let keys: Vec<_> = (0..4000).map(key).collect();
    let entries: Vec<_> =
        (0..4000_u64).map(|packets| FlowEntry4 { packets, ..FlowEntry4::default() }).collect();
    table.update(&keys, &entries)?;
    let mut seen = vec![0; 4000];
    let (mut some_keys, mut some_entries) = (Vec::new(), Vec::new());
    let mut batches = table.batches();
    while batches.next_into(&mut some_keys, &mut some_entries)? {
        ensure!(some_keys.len() <= 1024);
        for (key, entry) in some_keys.iter().zip(&some_entries) {
            ensure!(entry.packets == u64::from(key.source_port.get()));
            seen[usize::from(key.source_port.get())] += 1;
        }
    }
    ensure!(seen.iter().all(|count| *count == 1));
    let odd: Vec<_> = (0..8000).filter(|index| index % 2 == 1).map(key).collect();
    ensure!(table.delete(&odd)? == 2000, "those that were there");
    ensure!(table.get(&key(1))?.is_none() && table.get(&key(2))?.is_some());
    ensure!(table.remove(&key(2))? && !table.remove(&key(2))?);
    Ok(())
}

#[test]
fn a_plan_carried_out_on_the_maps_leaves_nothing_to_plan() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let mut maps = plane.maps()?;
    let mut desired = desired("10.0.0.100:5432".parse()?, &["10.0.1.1:5432", "10.0.1.2:5432"])?;
    converge(&mut maps, &desired)?;
    let actual = Actual::read(&maps, None)?;
    let left = plan(&desired, &actual)?;
    ensure!(left.complete && left.operations.is_empty(), "{left:?}");
    let ring = maps.ring(0)?.context("a ring")?;
    let share = ring.iter().filter(|slot| slot.server.id == 0).count();
    ensure!(share.abs_diff(ring.len() / 2) < 10, "{share}");
    ensure!(actual.next_hops().len() == 2, "the way to the servers is remembered");

    // A restart finds the same ids; a dead server leaves the ring and keeps its id.
    let servers = desired.backends.values_mut().next().context("a backend")?;
    servers.values_mut().next().context("a server")?.state = state::DOWN;
    let mut maps = Maps::open(&bench.pins())?;
    converge(&mut maps, &desired)?;
    let ring = maps.ring(0)?.context("a ring")?;
    ensure!(ring.iter().all(|slot| slot.server == Handle { id: 1, generation: 1 }));
    ensure!(maps.servers()?.first().is_some_and(|server| server.state == state::DOWN));

    let nothing = Desired { vips: [].into(), backends: [].into(), ..desired };
    converge(&mut maps, &nothing)?;
    let mut actual = Actual::read(&maps, None)?;
    ensure!(actual.rings.is_empty() && !actual.filter.is_empty(), "{actual:?}");
    ensure!(plan(&nothing, &actual)?.operations.is_empty(), "flows may need the filter");
    // Sweeps have found no flow that does.
    actual.idle = actual.filter.clone();
    apply(&mut maps, &plan(&nothing, &actual)?.operations)?;
    let actual = Actual::read(&maps, None)?;
    ensure!(actual.filter.is_empty(), "{actual:?}");
    ensure!(plan(&nothing, &actual)?.operations.is_empty());
    Ok(())
}

/// Flows that a function accepts, in no order.
struct Where<F>(F);

impl<F: Fn(&Flow) -> bool> Selection for Where<F> {
    fn may_want(&self, flow: &Flow) -> bool {
        (self.0)(flow)
    }

    fn rank(&self, _: &Flow) -> Option<u64> {
        Some(0)
    }

    fn is_ordered(&self) -> bool {
        false
    }
}

#[test]
fn the_sweep_forgets_idle_flows_and_no_others() -> Result<()> {
    let bench = Bench::new()?;
    let plane = bench.load()?;
    let now = Moment::now().monotonic_ns;
    let old = now.saturating_sub(1_000_000_000);
    let timeouts = Timeouts { udp_ns: 500_000_000, ..Timeouts::default() };
    let put = |port: u16, forward_seen: u64, reply_seen: Option<u64>, progress: u32| {
        let (key, entry) = udp_flow(port, forward_seen, progress);
        let mut pairs = vec![(key, entry)];
        if let Some(last_seen_ns) = reply_seen {
            let direction = Direction::Reply.to_raw();
            let answer = FlowEntry4 {
                last_seen_ns,
                direction,
                source: key.destination,
                destination: key.source,
                source_port: key.destination_port,
                destination_port: key.source_port,
                packets: 5,
                ..entry
            };
            pairs.push((entry.partner_key(), answer));
        }
        let (keys, entries): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        confirmed(&plane).and_then(|table| Ok(table.update(&keys, &entries)?))
    };
    put(1, old, Some(old), 0)?;
    put(2, old, Some(now), 0)?;
    put(3, now, Some(old), 0)?;
    put(4, old, None, 0)?;
    put(5, old, Some(old), Progress::REPORTED)?;
    // Where its other half was is a flow of somebody else, who is not silent.
    put(6, old, None, 0)?;
    let (_, entry) = udp_flow(6, old, 0);
    let (_, stranger) = udp_flow(60, now, 0);
    let direction = Direction::Reply.to_raw();
    let stranger = FlowEntry4 { direction, destination: Address4::new([10, 0, 0, 99]), ..stranger };
    confirmed(&plane)?.update(&[entry.partner_key()], &[stranger])?;
    let mut ends: Vec<FlowEnd> = Vec::new();
    let tables = FlowTables::open(plane.pins())?;
    let settler = Settler::open(plane.pins())?;
    let report = sweep(&tables, settler.expirer(), &timeouts, 0, |end| ends.push(end))?;
    ensure!((report.expired, report.stranded) == (4, 2), "{report:?}");
    let counts = MapData::from_pin(plane.pins().map(map::SERVER_FLOWS))?;
    let counts: BatchMap<u32, ServerFlows> = BatchMap::new(map::SERVER_FLOWS, counts)?;
    // Nobody has counted them up.
    let counted = counts.get(&0)?.context("an element")?.flows.wrapping_neg();
    ensure!(counted == 2, "{counted} flows of servers are counted down");
    ensure!(confirmed(&plane)?.get(&entry.partner_key())?.is_some(), "the stranger is gone");
    ensure!(report.fill.first().is_some_and(|fill| fill.entries == 11 && fill.capacity == 4096));
    ends.sort_by_key(|end| end.client_port.get());
    let ports: Vec<_> = ends.iter().map(|end| end.client_port.get()).collect();
    ensure!(ports == [1, 4, 6], "{ports:?}");
    let end = ends.first().context("an end")?;
    ensure!(end.cause == cause::TIMEOUT && end.protocol == 17);
    ensure!((end.forward_packets, end.reply_packets) == (2, 5), "{end:?}");
    let (left, truncated) = flows::list(&tables, 10, &Where(|_: &Flow| true))?;
    let mut left: Vec<_> = left.iter().map(|flow| flow.client.port()).collect();
    left.sort_unstable();
    ensure!(left == [2, 3] && !truncated, "{left:?}");
    let (some, truncated) = flows::list(&tables, 1, &Where(|_: &Flow| true))?;
    ensure!(some.len() == 1 && truncated);
    let (none, _) = flows::list(&tables, 10, &Where(|flow: &Flow| flow.client.port() == 9))?;
    ensure!(none.is_empty());
    Ok(())
}

#[test]
fn a_sweep_of_a_million_flows_finds_every_one() -> Result<()> {
    let figures = sweep_bench::run(1_000_000)?;
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// A client's SYN and RST through the program: the flow's end arrives as an event.
#[test]
fn a_finished_flow_is_read_from_the_ring_buffer() -> Result<()> {
    let bench = Bench::new()?;
    let mut plane = bench.load()?;
    let mut maps = plane.maps()?;
    let desired = desired("10.0.0.100:5432".parse()?, &["10.0.1.1:5432"])?;
    converge(&mut maps, &desired)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let reader = EventReader::open(plane.pins())?;
        let cancel = tokio_util::sync::CancellationToken::new();
        let (sender, mut ends) = tokio::sync::mpsc::channel(8);
        let task = tokio::spawn(reader.run(sender, cancel.clone()));
        plane.test_run(&tcp_packet(etherparse::PacketBuilderStep::syn)?)?;
        plane.test_run(&tcp_packet(etherparse::PacketBuilderStep::rst)?)?;
        let wait = tokio::time::timeout(std::time::Duration::from_secs(5), ends.recv());
        let end = wait.await.context("no event came")?.context("the reader ended")?;
        ensure!(end.cause == cause::CLIENT_RESET, "{end:?}");
        ensure!(end.client_port == Be16::new(40_000) && end.vip_port == Be16::new(5432));
        cancel.cancel();
        task.await?;
        Ok(())
    })
}

/// One round of the control loop.
fn converge(maps: &mut Maps, desired: &Desired) -> Result<()> {
    let Plan { operations, complete } = plan(desired, &Actual::read(maps, None)?)?;
    ensure!(complete, "there are ids enough");
    Ok(apply(maps, &operations)?)
}

fn confirmed(plane: &DataPlane) -> Result<BatchMap<FlowKey4, FlowEntry4>> {
    Ok(BatchMap::new(map::FLOWS4, MapData::from_pin(plane.pins().map(map::FLOWS4))?)?)
}

/// The forward half of a UDP flow from a client's port.
fn udp_flow(port: u16, last_seen_ns: u64, progress: u32) -> (FlowKey4, FlowEntry4) {
    let key = FlowKey4 {
        source: Address4::new([10, 0, 0, 1]),
        destination: Address4::new([10, 0, 0, 100]),
        source_port: Be16::new(port),
        destination_port: Be16::new(53),
        protocol: 17,
        padding: [0; 3],
    };
    let entry = FlowEntry4 {
        last_seen_ns,
        created_ns: 1,
        packets: 2,
        source: Address4::new([10, 0, 1, 254]),
        destination: Address4::new([10, 0, 1, 1]),
        source_port: Be16::new(port),
        destination_port: Be16::new(53),
        progress,
        protocol: 17,
        ..FlowEntry4::default()
    };
    (key, entry)
}

/// One TCP VIP and its servers, all up, with a known way to them.
fn desired(vip: SocketAddr, servers: &[&str]) -> Result<Desired> {
    let backend = Name::new("pg")?;
    let bind = Bind { address: vip, protocol: Protocol::Tcp };
    let wanted = DesiredVip {
        backend: backend.clone(),
        on_down: on_down::RESET,
        hash_by: 0,
        admission: AdmissionEntry::default(),
        refuse_when_full: false,
        affinity_s: 0,
        forward: Forward::Nat,
        syn_cookies: SynCookies::Off,
        snat: true,
    };
    let next_hop = NextHop {
        ifindex: 1,
        own: [2, 0, 0, 0, 0, 1],
        neighbour: [2, 0, 0, 0, 0, 2],
        source: "10.0.1.254".parse()?,
        mtu: 1500,
        routed: false,
    };
    let server = DesiredServer {
        state: state::UP,
        weight: 100,
        configured_weight: 100,
        backup: false,
        most_flows: 0,
        affinity: false,
        sees_clients: false,
        gue_port: 6080,
        next_hop: Some(next_hop),
    };
    let servers = servers.iter().map(|address| Ok((address.parse()?, server)));
    Ok(Desired {
        settings: Settings { half_open_buckets: SMALL.half_open, ..Settings::default() },
        rules: [].into(),
        vips: [(bind, wanted)].into(),
        backends: [(backend, servers.collect::<Result<_>>()?)].into(),
        in_turn: [].into(),
    })
}

/// A TCP packet from a client to the VIP.
fn tcp_packet(
    flags: impl FnOnce(
        etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
) -> Result<Vec<u8>> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 7], [10, 0, 0, 100], 64)
        .tcp(40_000, 5432, 1, 64_000);
    let mut packet = Vec::new();
    flags(builder).write(&mut packet, &[])?;
    Ok(packet)
}

#[test]
fn bpftool_prints_the_settings_with_names() -> Result<()> {
    let bench = Bench::new()?;
    let _plane = bench.load()?;
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["-j", "map", "dump", "pinned"]).arg(bench.pins().map(map::SETTINGS));
    let dump: serde_json::Value = serde_json::from_str(&output(&mut bpftool)?)?;
    let value = &dump[0]["formatted"]["value"];
    ensure!(value["abi_version"] == ABI_VERSION, "{dump}");
    Ok(())
}
