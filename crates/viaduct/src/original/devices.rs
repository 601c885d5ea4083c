//! Devices, as ifconfig and brctl showed them.

use std::{fs, path::Path};

use viaduct_types::IfName;

use crate::failure::Failure;

/// IFF_UP and what follows it (linux/if.h), in the order in which ifconfig names them.
const FLAGS: [(u32, &str); 6] = [
    (0x1, "UP"),
    (0x2, "BROADCAST"),
    (0x8, "LOOPBACK"),
    (0x40, "RUNNING"),
    (0x100, "PROMISC"),
    (0x1000, "MULTICAST"),
];

/// What ifconfig said of a device, without addresses: a vnet's have none.
pub(super) fn ifconfig(device: &IfName) -> Result<String, Failure> {
    let place = Path::new("/sys/class/net").join(device.as_str());
    let read = |file: &str| {
        fs::read_to_string(place.join(file)).map(|text| text.trim().to_owned()).map_err(|error| {
            Failure::failed(format!("{device}: {error}; is the vnet carried? `viaduct status` says why not"))
        })
    };
    let count = |name: &str| read(&format!("statistics/{name}"));
    let bits = read("flags")?;
    let bits = u32::from_str_radix(bits.trim_start_matches("0x"), 16).unwrap_or(0);
    let mut flags: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    // The kernel shows the state of the carrier elsewhere than in these flags.
    if read("operstate")? == "up" && !flags.contains(&"RUNNING") {
        flags.insert(flags.len().saturating_sub(1), "RUNNING");
    }
    Ok(format!(
        "{device:<9} Link encap:Ethernet  HWaddr {}\n          {}  MTU:{}  Metric:1\n          \
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
        count("rx_bytes")?,
        count("tx_bytes")?,
    ))
}

/// The ports of a bridge, by name; none when there is no such bridge.
pub(super) fn ports(bridge: &IfName) -> Vec<String> {
    let entries = fs::read_dir(Path::new("/sys/class/net").join(bridge.as_str()).join("brif"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
