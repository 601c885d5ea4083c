//! Devices and bridges, as ifconfig showed them, and `vn` beside it.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use viaduct_kernel::addresses_of;
use viaduct_types::{IfName, IpNet};

use crate::{failure::Failure, operations::VnetView, show::say};

const DEVICES: &str = "/sys/class/net";

/// IFF_UP and what follows it (linux/if.h), in the order in which ifconfig names them.
const FLAGS: [(u32, &str); 6] = [
    (0x1, "UP"),
    (0x2, "BROADCAST"),
    (0x8, "LOOPBACK"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x1000, "MULTICAST"),
];

/// A vnet's device, the bridge that it is in, and what of others is there.
pub(super) fn show_vnif(vnet: &VnetView) -> Result<(), Failure> {
    let device = &vnet.interface;
    say!("{}", ifconfig(device)?);
    let Some(bridge) = bridge_of(device) else { return Ok(()) };
    say!("          Bridge: {bridge}");
    let mut others = ports(&bridge);
    others.retain(|port| port != device && Some(port) != vnet.second_interface.as_ref());
    if !others.is_empty() {
        say!("          Interfaces: {}", words(&others));
    }
    say!("");
    Ok(())
}

/// A bridge as a device, and what is in it.
pub(super) fn show_bridge(bridge: &IfName) -> Result<(), Failure> {
    say!("{}", ifconfig(bridge)?);
    let ports = ports(bridge);
    if !ports.is_empty() {
        say!("          Interfaces: {}\n", words(&ports));
    }
    Ok(())
}

/// A line for a bridge.
pub(super) fn bridge_line(bridge: &IfName) -> String {
    let ports = ports(bridge);
    if ports.is_empty() { bridge.to_string() } else { format!("{bridge} : {}", words(&ports)) }
}

/// The bridges of this host, whoever made them, by name.
pub(super) fn bridges() -> Vec<IfName> {
    let mut devices = names(PathBuf::from(DEVICES));
    devices.retain(|device| of(device).join("bridge").is_dir());
    devices
}

fn words(names: &[IfName]) -> String {
    names.iter().map(IfName::as_str).collect::<Vec<_>>().join(", ")
}

fn of(device: &IfName) -> PathBuf {
    Path::new(DEVICES).join(device.as_str())
}

/// What has an entry in a directory, by name; nothing, when there is no such directory.
fn names(directory: PathBuf) -> Vec<IfName> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<IfName> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    names
}

fn ports(bridge: &IfName) -> Vec<IfName> {
    names(of(bridge).join("brif"))
}

fn bridge_of(device: &IfName) -> Option<IfName> {
    let bridge = fs::read_link(of(device).join("brport/bridge")).ok()?;
    bridge.file_name()?.to_str()?.parse().ok()
}

/// What ifconfig said of a device.
fn ifconfig(device: &IfName) -> Result<String, Failure> {
    let place = of(device);
    let failed = |error| {
        Failure::failed(format!("{device}: {error}; is the vnet carried? `viaduct status` says why not"))
    };
    let read =
        |file: &str| fs::read_to_string(place.join(file)).map(|text| text.trim().to_owned()).map_err(failed);
    let count = |name: &str| read(&format!("statistics/{name}"));
    let bytes = |name: &str| count(name).map(|text| format!("{text} ({})", short(text.parse().unwrap_or(0))));
    let bits = read("flags")?;
    let bits = u32::from_str_radix(bits.trim_start_matches("0x"), 16).unwrap_or(0);
    let mut flags: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    // The kernel shows the state of the carrier elsewhere than in these flags.
    if read("operstate")? == "up" && !flags.contains(&"RUNNING") {
        flags.insert(flags.len().saturating_sub(1), "RUNNING");
    }
    let addresses: String = addresses_of(device).map_err(failed)?.iter().map(address_line).collect();
    Ok(format!(
        "{device:<9} Link encap:Ethernet  HWaddr {}\n{addresses}          {}  MTU:{}  Metric:1\n          \
         RX packets:{} errors:{} dropped:{} overruns:{} frame:{}\n          \
         TX packets:{} errors:{} dropped:{} overruns:{} carrier:{}\n          \
         collisions:{} txqueuelen:{}\n          RX bytes:{}  TX bytes:{}\n",
        read("address")?.to_uppercase(),
        flags.join(" "),
        read("mtu")?,
        count("rx_packets")?,
        count("rx_errors")?,
        count("rx_dropped")?,
        count("rx_fifo_errors")?,
        count("rx_frame_errors")?,
        count("tx_packets")?,
        count("tx_errors")?,
        count("tx_dropped")?,
        count("tx_fifo_errors")?,
        count("tx_carrier_errors")?,
        count("collisions")?,
        read("tx_queue_len")?,
        bytes("rx_bytes")?,
        bytes("tx_bytes")?,
    ))
}

fn address_line(net: &IpNet) -> String {
    match net.addr() {
        IpAddr::V4(address) => {
            format!("          inet addr:{address}  Bcast:{}  Mask:{}\n", net.broadcast(), net.netmask())
        }
        IpAddr::V6(address) => {
            format!("          inet6 addr: {net} Scope:{}\n", scope(address))
        }
    }
}

fn scope(address: Ipv6Addr) -> &'static str {
    if address.is_loopback() {
        "Host"
    } else if address.is_unicast_link_local() {
        "Link"
    } else {
        "Global"
    }
}

/// As people read so many bytes.
fn short(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..=1024 => (1, "b"),
        1025..=1_048_576 => (1 << 10, "KiB"),
        _ => (1 << 20, "MiB"),
    };
    let tenths = u128::from(bytes) * 10 / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}
