//! When a device becomes a port of a bridge with something at its other end, and when it is none any more (rtnetlink(7)): be it that
//! it is put there, or that its cable is put into something.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::warn;
use viaduct_types::IfName;

use super::{
    engine::Input,
    rtnetlink::{Told, messages, question},
};

/// Changes of devices (linux/rtnetlink.h).
const RTNLGRP_LINK: u32 = 1;

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
    socket.send(&all(), 0)?;
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
                socket.get_ref().send(&all(), 0)?;
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
fn all() -> Vec<u8> {
    question(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
}

/// Those that are ports, by their numbers.
#[derive(Debug, Default)]
struct Ports(BTreeMap<u32, IfName>);

impl Ports {
    /// What is another thing than before.
    fn hear(&mut self, bytes: &[u8]) -> Vec<(IfName, bool)> {
        let mut changes = Vec::new();
        for message in messages(bytes) {
            let (link, is_gone) = match message {
                Ok(NetlinkPayload::InnerMessage(Told::Link(link))) => (link, false),
                Ok(NetlinkPayload::InnerMessage(Told::NoLink(link))) => (link, true),
                Ok(_) | Err(_) => continue,
            };
            let index = link.header.index;
            let name = if is_gone { None } else { port(&link) };
            // What it was called before, if that is another name.
            let known = self.0.get(&index).cloned();
            if known == name {
                continue;
            }
            changes.extend(self.0.remove(&index).map(|known| (known, false)));
            if let Some(name) = name {
                self.0.insert(index, name.clone());
                changes.push((name, true));
            }
        }
        changes
    }
}

/// What a device is called that is a port with something at its other end.
fn port(link: &LinkMessage) -> Option<IfName> {
    let is_port = link.attributes.iter().any(|of| matches!(of, LinkAttribute::Controller(_)));
    let name = link.attributes.iter().find_map(|of| {
        let LinkAttribute::IfName(name) = of else { return None };
        name.parse().ok()
    });
    name.filter(|_| is_port && link.header.flags.contains(LinkFlags::LowerUp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: i32, name: &str, master: Option<u32>) -> Vec<u8> {
        let (name, master) = (format!("{name}\0"), master.map(u32::to_ne_bytes));
        let master = master.as_ref().map(|master| (libc::IFLA_MASTER, &master[..]));
        let attributes: Vec<_> = [(libc::IFLA_IFNAME, name.as_bytes())].into_iter().chain(master).collect();
        super::super::rtnetlink::tests::message(kind, index, flags, &attributes)
    }

    #[test]
    fn a_port_is_there_with_its_cable() {
        let mut ports = Ports::default();
        let eth1: IfName = "eth1".parse().unwrap();
        let mut is = |bytes: &[u8]| ports.hear(bytes);
        assert_eq!(is(&message(libc::RTM_NEWLINK, 3, libc::IFF_LOWER_UP, "eth1", None)), []);
        assert_eq!(is(&message(libc::RTM_NEWLINK, 3, 0, "eth1", Some(7))), []);
        let there = message(libc::RTM_NEWLINK, 3, libc::IFF_LOWER_UP, "eth1", Some(7));
        assert_eq!(is(&[there.clone(), there.clone()].concat()), [(eth1.clone(), true)]);
        assert_eq!(is(&message(libc::RTM_NEWLINK, 3, 0, "eth1", Some(7))), [(eth1.clone(), false)]);
        assert_eq!(is(&there), [(eth1.clone(), true)]);
        // It is called something else.
        let renamed = message(libc::RTM_NEWLINK, 3, libc::IFF_LOWER_UP, "lan", Some(7));
        assert_eq!(is(&renamed), [(eth1, false), ("lan".parse().unwrap(), true)]);
        assert_eq!(is(&message(libc::RTM_DELLINK, 3, 0, "lan", Some(7))), [("lan".parse().unwrap(), false)]);
    }
}
