//! Attaching the program to interfaces through pinned links, which hold it there when the
//! agent is gone and let a new program take over between two packets.
//!
//! Follows `bpf_xdp_link_attach` and `bpf_xdp_link_update` in `net/core/dev.c`.

use std::{io, path::Path};

use aya::programs::{
    ProgramError, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::{XdpError, XdpLink},
};
use lb_common::check_path::program::{BACK, OUT};
use nix::net::if_::if_nametoindex;

use super::{
    error::{DatapathError, HostError, InterfaceError, PinsError},
    pins::Pins,
    query,
};
use crate::model::snapshot::AttachMode;

/// How the program is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub ifindex: u32,
    /// In the network stack (generic), not in the driver (native): much slower.
    pub generic: bool,
    /// Why `auto` fell back to generic, if it did: what the driver said.
    pub fallback: Option<String>,
    /// A running program of ours was replaced.
    pub replaced: bool,
}

/// The XDP program that an interface has, whoever put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The program's id.
    pub program: u32,
    /// It runs in the network stack, not in the driver.
    pub generic: bool,
    /// A pinned link of ours holds it there.
    pub ours: bool,
}

/// What XDP program an interface has; none if it has none.
///
/// # Errors
/// If there is no such interface, or the kernel does not say.
pub fn attached(pins: &Pins, interface: &str) -> Result<Option<Attached>, DatapathError> {
    let ifindex = if_nametoindex(interface)
        .map_err(|_| InterfaceError::Missing { name: interface.to_owned() })?;
    let site = Site { pins, interface, ifindex };
    let Some(found) = site.query()? else { return Ok(None) };
    let ours = match site.open_link()? {
        Some(link) => site.held_by(&link)?.is_some(),
        None => false,
    };
    Ok(Some(Attached { program: found.program, generic: found.generic, ours }))
}

/// The name of a loaded program; none if there is none of this id, or it has no name.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    found.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The programs of tc that are attached to an interface by links of their own (`tcx`, Linux
/// 6.6), by name: `ingress NAME`; without those that send checks the way of traffic.
#[must_use]
pub fn tcx_programs(interface: &str) -> Vec<String> {
    let at = |place: &str, kind| {
        let found = SchedClassifier::query_tcx(interface, kind).map(|(_, programs)| programs);
        let names = found.unwrap_or_default().into_iter();
        let name = |program: ProgramInfo| program.name_as_str().unwrap_or("?").to_owned();
        let theirs = names.map(name).filter(|name| ![OUT, BACK].contains(&name.as_str()));
        theirs.map(|name| format!("{place} {name}")).collect::<Vec<_>>()
    };
    [at("ingress", TcAttachType::Ingress), at("egress", TcAttachType::Egress)].concat()
}

/// Attaches `program` to an interface, or replaces the program of its pinned link.
pub(crate) fn attach(
    program: &mut Xdp,
    pins: &Pins,
    interface: &str,
    mode: AttachMode,
) -> Result<Attachment, DatapathError> {
    let ifindex = if_nametoindex(interface)
        .map_err(|_| InterfaceError::Missing { name: interface.to_owned() })?;
    let site = Site { pins, interface, ifindex };
    let Some(link) = site.open_link()? else { return site.attach_anew(program, mode) };
    let held = site.held_by(&link)?;
    match held {
        // The interface was deleted, or renamed and its name given to another.
        None => {
            pins.remove(&pins.link(interface))?;
            site.attach_anew(program, mode)
        }
        Some(generic) if suits(mode, generic) => site.replace(program, link, generic),
        Some(generic) => site.change_mode(program, link, generic, mode),
    }
}

/// Removes an interface's link; false if there was none.
pub(crate) fn detach(pins: &Pins, interface: &str) -> Result<bool, DatapathError> {
    Ok(pins.remove(&pins.link(interface))?)
}

/// Pins a program in the place of the one before.
pub(crate) fn pin_program(
    program: &mut Xdp,
    pins: &Pins,
    path: &Path,
) -> Result<(), DatapathError> {
    let pinned = pins.replace(path, |path| {
        program.pin(path).map_err(|source| PinsError::Pin { path: path.to_owned(), source })
    });
    Ok(pinned?)
}

/// Whether a program attached this way needs no other attachment. `auto` takes what is
/// there: changing it would stop forwarding for a moment.
const fn suits(mode: AttachMode, generic: bool) -> bool {
    match mode {
        AttachMode::Auto | AttachMode::Off => true,
        AttachMode::Native => !generic,
        AttachMode::Generic => generic,
    }
}

/// One interface and where its link is pinned.
struct Site<'a> {
    pins: &'a Pins,
    interface: &'a str,
    ifindex: u32,
}

impl Site<'_> {
    fn open_link(&self) -> Result<Option<FdLink>, DatapathError> {
        let path = self.pins.link(self.interface);
        if !path.exists() {
            return Ok(None);
        }
        PinnedLink::from_pin(&path)
            .map(|link| Some(FdLink::from(link)))
            .map_err(|source| PinsError::Link { path, source }.into())
    }

    /// Whether the link holds its program on this interface, and if so, in generic mode.
    fn held_by(&self, link: &FdLink) -> Result<Option<bool>, DatapathError> {
        let path = self.pins.link(self.interface);
        let info = link.info().map_err(|source| PinsError::Link { path, source })?;
        let attached = self.query()?;
        let ours = attached.filter(|attached| attached.program == info.program_id());
        Ok(ours.map(|attached| attached.generic))
    }

    fn query(&self) -> Result<Option<query::Attached>, InterfaceError> {
        query::attached(self.ifindex)
            .map_err(|source| InterfaceError::Query { name: self.interface.to_owned(), source })
    }

    /// Lets the link hold the new program from the next packet on.
    fn replace(
        &self,
        program: &mut Xdp,
        link: FdLink,
        generic: bool,
    ) -> Result<Attachment, DatapathError> {
        let path = self.pins.link(self.interface);
        let link = XdpLink::try_from(link)
            .map_err(|_| PinsError::OtherKind { path, expected: "an XDP link" })?;
        let id = program.attach_to_link(link).map_err(|source| self.attach_failed(source))?;
        // Given up here, the pin keeps it.
        drop(program.take_link(id).map_err(|source| self.attach_failed(source))?);
        Ok(self.attachment(generic, None, true))
    }

    /// Takes the program off and attaches it in the other mode; there is no way to do that
    /// between two packets. If the driver refuses, the old mode is restored.
    fn change_mode(
        &self,
        program: &mut Xdp,
        link: FdLink,
        generic: bool,
        mode: AttachMode,
    ) -> Result<Attachment, DatapathError> {
        self.pins.remove(&self.pins.link(self.interface))?;
        drop(link);
        self.attach_anew(program, mode).or_else(|error| {
            let before = if generic { AttachMode::Generic } else { AttachMode::Native };
            self.attach_anew(program, before)?;
            Err(error)
        })
    }

    fn attach_anew(
        &self,
        program: &mut Xdp,
        mode: AttachMode,
    ) -> Result<Attachment, DatapathError> {
        if mode == AttachMode::Generic {
            self.attach_as(program, XdpMode::Skb)?;
            return Ok(self.attachment(true, None, false));
        }
        match self.attach_as(program, XdpMode::Driver) {
            Ok(()) => Ok(self.attachment(false, None, false)),
            Err(DatapathError::Interface(InterfaceError::NoNative { source, .. }))
                if mode == AttachMode::Auto =>
            {
                self.attach_as(program, XdpMode::Skb)?;
                Ok(self.attachment(true, Some(source.to_string()), false))
            }
            Err(error) => Err(error),
        }
    }

    fn attach_as(&self, program: &mut Xdp, mode: XdpMode) -> Result<(), DatapathError> {
        let id = program
            .attach_to_if_index(self.ifindex, mode)
            .map_err(|error| self.refused(error, mode))?;
        let link = program.take_link(id).map_err(|source| self.attach_failed(source))?;
        // aya attaches over netlink where the kernel has no XDP links; those end with the agent.
        let link = FdLink::try_from(link)
            .map_err(|_| HostError::NoXdp { source: io::Error::from_raw_os_error(libc::EINVAL) })?;
        let path = self.pins.link(self.interface);
        drop(link.pin(&path).map_err(|source| PinsError::Pin { path, source })?);
        Ok(())
    }

    /// Who is to blame for a refused attachment.
    fn refused(&self, error: ProgramError, mode: XdpMode) -> DatapathError {
        let name = self.interface.to_owned();
        let Some(number) = os_error(&error) else { return self.attach_failed(error).into() };
        let source = io::Error::from_raw_os_error(number);
        match number {
            libc::EBUSY | libc::EEXIST => {
                let attached = self.query().ok().flatten();
                let program = attached.map_or("?".to_owned(), |found| found.program.to_string());
                InterfaceError::Occupied { name, program }.into()
            }
            libc::EPERM => HostError::Refused { action: "attaching XDP", source }.into(),
            libc::ENOMEM => HostError::Memory { map: "unknown".into(), source }.into(),
            libc::ENODEV => InterfaceError::Missing { name }.into(),
            _ if mode == XdpMode::Driver => InterfaceError::NoNative { name, source }.into(),
            _ => self.attach_failed(error).into(),
        }
    }

    fn attachment(&self, generic: bool, fallback: Option<String>, replaced: bool) -> Attachment {
        let (interface, ifindex) = (self.interface.to_owned(), self.ifindex);
        Attachment { interface, ifindex, generic, fallback, replaced }
    }

    fn attach_failed(&self, source: ProgramError) -> InterfaceError {
        InterfaceError::Attach { name: self.interface.to_owned(), source }
    }
}

/// The operating system's error number behind a refused attachment.
fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}
