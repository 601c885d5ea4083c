//! Who may hear something, and whether they do.

use std::{collections::BTreeMap, io, mem::MaybeUninit, os::fd::AsFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Scene, packets::Token};
use crate::{
    file::{Name, Role},
    packet::PacketSocket,
    sentence::{Forge, Forgery, Heard},
    world::inside,
};

/// Everybody who may hear a made-up frame.
#[derive(Debug, Default)]
pub(super) struct Ears {
    wires: Vec<(String, PacketSocket)>,
    hosts: Vec<(String, Socket)>,
}

impl Ears {
    /// Adds what was heard since the last time, as a count for each who heard it.
    pub(super) fn listen(&self, token: &Token, heard: &mut BTreeMap<String, usize>) {
        let mut buffer = vec![0; 1 << 16];
        for (name, ear) in &self.wires {
            while let Some(found) = ear.hear(&mut buffer) {
                if !found.outgoing && contains(found.frame, token) {
                    *heard.entry(name.clone()).or_default() += 1;
                }
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        for (name, ear) in &self.hosts {
            while let Ok((length, _)) = ear.recv_from(&mut buffer) {
                // SAFETY: the kernel has filled that many bytes.
                if contains(unsafe { buffer[..length].assume_init_ref() }, token) {
                    *heard.entry(name.clone()).or_default() += 1;
                }
            }
        }
    }

    /// Whether somebody may have heard more than was looked at.
    pub(super) fn overrun(&self) -> bool {
        self.wires.iter().any(|(_, ear)| ear.overrun())
    }
}

impl Scene<'_> {
    /// Hears whatever passes a switch.
    pub(super) fn ear_on_switch(&self, switch: &Name) -> io::Result<PacketSocket> {
        inside(self.world.scenery.as_fd(), || PacketSocket::on(self.inventory.switch_index(switch)?))
    }

    /// Everybody but the sender. The sender's own host has its frames on its side of the wire in any case: it hears
    /// what gets through its filter. Machines on the sender's own segment hear what no filter of ours can keep from
    /// them, so only those count who are named.
    pub(super) fn ears(&self, forge: &Forge) -> io::Result<Ears> {
        let mut ears = Ears::default();
        let named: &[Name] = match &forge.heard {
            Heard::By(names) | Heard::NotBy(names) => names,
            Heard::ByNobody => &[],
        };
        let own_host = self.lab.host_of(&forge.from);
        let shares_segment = |other: &Name| {
            let mut cards = self.lab.machines[other].interfaces.values();
            cards.any(|card| self.lab.is_on(&forge.from, &card.switch))
        };
        for (name, machine) in &self.lab.machines {
            if *name == forge.from {
                continue;
            }
            let is_host = matches!(machine.role, Role::Host { .. });
            if Some(name) == own_host || is_host && shares_segment(name) {
                for socket in self.inside(name, local_sockets)? {
                    ears.hosts.push((name.to_string(), socket));
                }
                if let Forgery::Claim(_) | Forgery::Probe(_) = forge.what {
                    // ARP has no raw sockets, and solicitations go to groups of others, but a bridge's own interface gets
                    // what has passed the bridge's filter.
                    for card in self.cards(name).iter().filter(|card| card.bridge) {
                        let ear = self.inside(name, || PacketSocket::of(card.index))?;
                        ears.wires.push((name.to_string(), ear));
                    }
                }
            } else if named.contains(name) || !shares_segment(name) {
                ears.wires.push((name.to_string(), self.inside(name, PacketSocket::everywhere)?));
            }
        }
        for switch in self.lab.switches.keys().filter(|switch| !self.lab.is_on(&forge.from, switch)) {
            ears.wires.push((format!("the switch {switch}"), self.ear_on_switch(switch)?));
        }
        Ok(ears)
    }
}

/// Sockets that see what the machine's packet filter lets through to itself.
fn local_sockets() -> io::Result<Vec<Socket>> {
    [
        (Domain::IPV4, Protocol::UDP),
        (Domain::IPV4, Protocol::ICMPV4),
        (Domain::IPV6, Protocol::UDP),
        (Domain::IPV6, Protocol::ICMPV6),
    ]
    .into_iter()
    .map(|(domain, protocol)| {
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
    .collect()
}

fn contains(bytes: &[u8], token: &Token) -> bool {
    bytes.windows(token.len()).any(|window| window == token)
}
