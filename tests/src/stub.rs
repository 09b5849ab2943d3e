//! The `XDP_PASS` program on the peer of a balancer's veth end.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use pointsman::datapath::object::TESTBED_OBJECT;

use crate::namespace::Namespace;

/// Name of the program in the test bed's object.
const PROGRAM: &str = "stub";

/// An attached program; dropping it detaches.
#[derive(Debug)]
pub struct Stub {
    _object: Ebpf,
}

impl Stub {
    /// Attaches to a device of a namespace, in the driver.
    ///
    /// # Errors
    /// When the kernel refuses the program or there is one already.
    pub fn attach(namespace: &Namespace, device: &str) -> Result<Self> {
        // Links are made in the namespace of the calling thread.
        let object = namespace.run(|| {
            let mut object = Ebpf::load(TESTBED_OBJECT).context("load the test bed's object")?;
            let program: &mut Xdp =
                object.program_mut(PROGRAM).context("find the stub")?.try_into()?;
            program.load().context("load the stub")?;
            program
                .attach(device, XdpMode::Driver)
                .with_context(|| format!("attach the stub to {device}"))?;
            Ok(object)
        })?;
        Ok(Self { _object: object })
    }
}
