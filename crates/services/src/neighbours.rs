//! What is answered for on a link that others share: whole prefixes that are behind guests (RFC 4389, section 4.1). On a
//! guest's own link: whatever it takes for its gateway. The kernel answers for single addresses, by its proxy entries.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::Ipv6Addr};

use viaduct_plan::{Neighbours, ServedLink};
use viaduct_types::{IfName, MacAddr, NicId};
use viaduct_wire::nd::{Solicitation, advertisement, parse_solicitation};

use crate::{Frame, queue::Queue};

/// Whoever answers. It is told what there is on each link ([`Responder::serve`]) and what was received
/// ([`Responder::receive`]), and has frames to send then ([`Responder::transmit`]).
#[derive(Default)]
pub struct Responder {
    links: BTreeMap<IfName, Link>,
    frames: Queue<Frame>,
}

#[derive(Default)]
struct Link {
    /// No prefix is part of another; by their first address.
    answered: BTreeMap<Ipv6Addr, (NicId, Neighbours)>,
    /// The first address of each.
    firsts: BTreeMap<NicId, Ipv6Addr>,
}

impl Responder {
    /// What is answered for on a link from now on, where it is something else than before because of these NICs.
    pub fn serve<'a>(
        &mut self,
        device: &IfName,
        served: &ServedLink,
        changed: impl IntoIterator<Item = &'a NicId>,
    ) {
        let link = self.links.entry(device.clone()).or_default();
        for nic in changed {
            let neighbours = served.nics.get(nic).and_then(|nic| nic.neighbours.clone());
            link.set(nic, neighbours);
        }
        if link.answered.is_empty() {
            self.links.remove(device);
        }
    }

    /// A frame came in by a device with this MAC.
    pub fn receive(&mut self, device: &IfName, own_mac: MacAddr, frame: &[u8]) {
        let Some(link) = self.links.get(device) else { return };
        let Some(asked) = parse_solicitation(frame) else { return };
        let near = link.answered.range(..=asked.target).next_back();
        if let Some((_, (_, neighbours))) = near
            && answers(neighbours, &asked)
            && let Some(bytes) = advertisement(own_mac, neighbours.address, &asked)
        {
            self.frames.push(Frame { device: device.clone(), bytes });
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Frame> {
        self.frames.pop()
    }
}

fn answers(neighbours: &Neighbours, asked: &Solicitation) -> bool {
    neighbours.prefix.contains(&asked.target)
        && !neighbours.except.iter().any(|except| except.contains(&asked.target))
        && (neighbours.defended || !asked.from.is_unspecified())
}

impl Link {
    fn set(&mut self, nic: &NicId, neighbours: Option<Neighbours>) {
        // What begins there may be another one's already.
        if let Some(first) = self.firsts.remove(nic)
            && self.answered.get(&first).is_some_and(|(of, _)| of == nic)
        {
            self.answered.remove(&first);
        }
        if let Some(neighbours) = neighbours {
            let first = neighbours.prefix.network();
            self.firsts.insert(nic.clone(), first);
            self.answered.insert(first, (nic.clone(), neighbours));
        }
    }
}
