//! Small virtual machines for tests: QEMU without KVM boots the kernel of Debian's cloud images with a file system in
//! memory that is made anew each time.
//!
//! A [`Kernel`] is fetched once, as Debian's package, into the build's directory; nothing is installed. An [`Image`] is
//! what the machine finds at its start: busybox, modules, programs of this machine with their libraries, files. A
//! [`Machine`] runs, does commands, and ends with the value, or with the process that has started it. A [`guest`] is a
//! machine with nothing but busybox and a network interface, as somebody's virtual machine on one of our taps. A
//! [`Diskless`] one has nothing at all but its firmware, which boots by the network.
#![forbid(unsafe_code)]

mod archive;
mod diskless;
mod error;
mod image;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};

pub use diskless::{Diskless, Firmware};
pub use error::VmError;
pub use image::Image;
pub use kernel::Kernel;
pub use machine::{Machine, Ran, Setup};

/// The modules of what Viaduct does and is tested with: links, bridges, the packet filter, VLANs, flowtables,
/// WireGuard and netem.
pub const HOST_MODULES: [&str; 45] = [
    "8021q",
    "af_packet",
    "br_netfilter",
    "bridge",
    "dummy",
    "ipvlan",
    "macvlan",
    "nf_conntrack_bridge",
    "nf_conntrack_netlink",
    "nf_flow_table_inet",
    "nf_log_syslog",
    "nf_tables",
    "nfnetlink_queue",
    "nft_chain_nat",
    "nft_connlimit",
    "nft_ct",
    "nft_dup_netdev",
    "nft_fib_inet",
    "nft_fib_netdev",
    "nft_flow_offload",
    "nft_fwd_netdev",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_numgen",
    "nft_queue",
    "nft_quota",
    "nft_redir",
    "nft_reject_bridge",
    "nft_reject_inet",
    "nft_socket",
    "nft_synproxy",
    "nft_tproxy",
    "nft_tunnel",
    "nft_xfrm",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "tun",
    "veth",
    "vxlan",
    "wireguard",
];

/// The programs of this machine that a host's image has: those that Viaduct's tests and labs run, as far as they are
/// installed. Busybox stands in for the others.
pub const HOST_PROGRAMS: [&str; 8] = ["ip", "bridge", "tc", "nft", "ping", "wg", "conntrack", "sysctl"];

/// Boots a virtual machine as somebody's guest: busybox, a driver for virtio's network interfaces, and no word about
/// the network in it, which is up to [`Machine::run`]: `ip`, `ping`, `nc`, `httpd`, `udhcpc`.
///
/// `network` is what QEMU is to be told of its interfaces, as `viaduct attach --tap` prints it. QEMU runs in the
/// namespaces of the calling thread, or in the network namespace that `netns` names.
///
/// # Errors
/// When a kernel cannot be had, QEMU does not start, or the machine does not come up.
pub fn guest(network: &str, netns: Option<&Path>) -> Result<Machine, VmError> {
    guest_with(network, netns, |_| Ok(()))
}

/// The same, with what `add` adds to what it finds.
///
/// # Errors
/// As [`guest`], and those of `add`.
pub fn guest_with(
    network: &str,
    netns: Option<&Path>,
    add: impl FnOnce(&mut Image) -> Result<(), VmError>,
) -> Result<Machine, VmError> {
    let kernel = Kernel::debian()?;
    let mut image = Image::new(&kernel)?;
    image.modules(&["virtio_net", "af_packet"])?;
    add(&mut image)?;
    let setup = Setup {
        memory: 128,
        processors: 1,
        netns: netns.map(PathBuf::from),
        qemu: network.split_whitespace().map(str::to_owned).collect(),
    };
    Machine::boot(&kernel, &image, &setup)
}

/// Where what is fetched is kept: in the build's directory.
fn cache() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    target.join("vm")
}
