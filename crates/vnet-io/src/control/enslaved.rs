//! When a device becomes a port of a bridge with something at its other end, and when it is none any more (rtnetlink(7)): be it that
//! it is put there, or that its cable is put into something.

use std::{collections::BTreeMap, io};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::warn;
use viaduct_types::IfName;

use super::engine::Input;

/// Changes of devices (linux/rtnetlink.h).
const RTNLGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// The kernel's word for somebody being at the other end (linux/if.h).
const IFF_LOWER_UP: u32 = 1 << 16;
/// The heads of messages (linux/netlink.h, linux/rtnetlink.h).
const HEAD: usize = 16;
const LINK: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;

/// Reports each change, and at first each device that is one, until nobody hears it.
pub(super) async fn watch(inputs: mpsc::Sender<Input>) {
    if let Err(error) = watch_all(&inputs).await {
        warn!("vnets: it is not noticed when ports are put into bridges: {error}");
    }
}

async fn watch_all(inputs: &mpsc::Sender<Input>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.add_membership(RTNLGRP_LINK)?;
    socket.set_non_blocking(true)?;
    socket.send(&question(), 0)?;
    // SAFETY: the socket has one descriptor, which is its own and stays open until it is dropped, after it is registered no more.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    let mut ports = Ports::default();
    loop {
        let mut ready = socket.readable().await?;
        let changes = match ready.try_io(|socket| socket.get_ref().recv_from_full()) {
            Err(_) => continue,
            Ok(Ok((bytes, _))) => ports.hear(&bytes),
            // More than was read: all of them are asked for again.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                socket.get_ref().send(&question(), 0)?;
                continue;
            }
            Ok(Err(error)) => return Err(error),
        };
        for (device, there) in changes {
            if inputs.send(Input::Port { device, there }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Asks for all devices.
fn question() -> Vec<u8> {
    const REQUEST_DUMP: u16 = 0x301;
    let mut bytes = vec![0; HEAD + LINK];
    bytes[..4].copy_from_slice(&32u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes
}

/// Those that are ports, by their numbers.
#[derive(Debug, Default)]
struct Ports(BTreeMap<u32, IfName>);

impl Ports {
    /// What is another thing than before.
    fn hear(&mut self, mut bytes: &[u8]) -> Vec<(IfName, bool)> {
        let mut changes = Vec::new();
        while let Some(length) = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
            let Some(message) = bytes.get(..length).filter(|message| message.len() >= HEAD) else { break };
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            let is_gone = match u16_at(message, 4) {
                Some(RTM_NEWLINK) => false,
                Some(RTM_DELLINK) => true,
                Some(_) | None => continue,
            };
            let Some(link) = Link::read(&message[HEAD..]) else { continue };
            let name = link.name.filter(|_| !is_gone && link.is_port && link.is_up);
            // What it was called before, if that is another name.
            let known = self.0.get(&link.index).cloned();
            if known == name {
                continue;
            }
            changes.extend(self.0.remove(&link.index).map(|known| (known, false)));
            if let Some(name) = name {
                self.0.insert(link.index, name.clone());
                changes.push((name, true));
            }
        }
        changes
    }
}

/// What is said of a device.
struct Link {
    index: u32,
    name: Option<IfName>,
    is_port: bool,
    is_up: bool,
}

impl Link {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut link = Self {
            index: u32_at(bytes, 4)?,
            name: None,
            is_port: false,
            is_up: u32_at(bytes, 8)? & IFF_LOWER_UP != 0,
        };
        let mut rest = bytes.get(LINK..)?;
        while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let value = rest.get(4..usize::from(length))?;
            match kind {
                IFLA_IFNAME => {
                    let text = value.strip_suffix(&[0]).unwrap_or(value);
                    link.name = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                }
                IFLA_MASTER => link.is_port = true,
                _ => {}
            }
            rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        }
        Some(link)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_ne_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: u32, name: &str, master: Option<u32>) -> Vec<u8> {
        let mut link = vec![0; LINK];
        link[4..8].copy_from_slice(&index.to_ne_bytes());
        link[8..12].copy_from_slice(&flags.to_ne_bytes());
        let mut add = |kind: u16, value: &[u8]| {
            link.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            link.extend(kind.to_ne_bytes());
            link.extend(value);
            link.resize(link.len().next_multiple_of(4), 0);
        };
        add(IFLA_IFNAME, format!("{name}\0").as_bytes());
        if let Some(master) = master {
            add(IFLA_MASTER, &master.to_ne_bytes());
        }
        let mut bytes = vec![0; HEAD];
        bytes[..4].copy_from_slice(&u32::try_from(HEAD + link.len()).unwrap().to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(link);
        bytes
    }

    #[test]
    fn a_port_is_there_with_its_cable() {
        let mut ports = Ports::default();
        let eth1: IfName = "eth1".parse().unwrap();
        let mut is = |bytes: &[u8]| ports.hear(bytes);
        assert_eq!(is(&message(RTM_NEWLINK, 3, IFF_LOWER_UP, "eth1", None)), []);
        assert_eq!(is(&message(RTM_NEWLINK, 3, 0, "eth1", Some(7))), []);
        let there = message(RTM_NEWLINK, 3, IFF_LOWER_UP, "eth1", Some(7));
        assert_eq!(is(&[there.clone(), there.clone()].concat()), [(eth1.clone(), true)]);
        assert_eq!(is(&message(RTM_NEWLINK, 3, 0, "eth1", Some(7))), [(eth1.clone(), false)]);
        assert_eq!(is(&there), [(eth1.clone(), true)]);
        // It is called something else.
        let renamed = message(RTM_NEWLINK, 3, IFF_LOWER_UP, "lan", Some(7));
        assert_eq!(is(&renamed), [(eth1, false), ("lan".parse().unwrap(), true)]);
        assert_eq!(is(&message(RTM_DELLINK, 3, 0, "lan", Some(7))), [("lan".parse().unwrap(), false)]);
    }

    #[test]
    fn any_bytes_are_read() {
        let whole = message(RTM_NEWLINK, 3, IFF_LOWER_UP, "eth1", Some(7));
        for length in 0..whole.len() {
            assert_eq!(Ports::default().hear(&whole[..length]), []);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 255] {
                let mut other = whole.clone();
                other[at] = value;
                Ports::default().hear(&other);
            }
        }
    }
}
