//! A machine without a disk.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::{VmError, machine::QEMU};

/// What a machine does before there is a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A PC's BIOS, which boots by what is in its network card: in QEMU's, iPXE.
    Bios,
    /// UEFI on x86-64, which boots by itself: by TFTP and HTTP, over IPv4 and IPv6, one after the other.
    Efi,
}

/// A machine that has nothing but memory, firmware and its network interfaces, so that it boots by the network. It is
/// killed when it is dropped.
#[derive(Debug)]
pub struct Diskless {
    qemu: Child,
    directory: tempfile::TempDir,
}

/// Where Debian's package ovmf has it.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

impl Diskless {
    /// Starts a machine with the interfaces that QEMU is to be told of, as `viaduct attach --tap` prints it.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn boot(firmware: Firmware, network: &str) -> Result<Self, VmError> {
        let directory = tempfile::Builder::new().prefix("viaduct-vm-").tempdir();
        let directory = directory.map_err(VmError::file("make a directory in", std::env::temp_dir()))?;
        let mut command = Command::new(QEMU);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256"])
            .arg("-serial")
            .arg(format!("file:{}", directory.path().join("console").display()))
            // Later firmware makes its identifiers with it.
            .args(["-device", "virtio-rng-pci"])
            .args(network.split_whitespace());
        match firmware {
            // What it shows on a screen it says on the console.
            Firmware::Bios => command.args(["-machine", "pc,graphics=off"]),
            // Without what is in the network card, which would do it in its place.
            Firmware::Efi => {
                command.args(["-machine", "q35", "-bios", OVMF, "-global", "virtio-net-pci.romfile="])
            }
        };
        let qemu = command.stdin(Stdio::null()).spawn().map_err(|source| VmError::Program {
            program: QEMU.to_owned(),
            package: "qemu-system-x86",
            source,
        })?;
        Ok(Self { qemu, directory })
    }

    /// What the machine's console has shown so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.directory.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Diskless {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
