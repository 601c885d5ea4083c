//! What is answered for on a link that others share: whole prefixes that are behind guests (RFC 4389, section 4.1). The
//! kernel answers for single addresses, by its proxy entries.

use std::{collections::BTreeMap, net::Ipv6Addr};

use viaduct_plan::Neighbours;
use viaduct_types::{IfName, Ipv6Net, MacAddr};
use viaduct_wire::nd::{advertisement, parse_solicitation};

use crate::{Frame, queue::Queue};

/// Whoever answers. It is told what there is on each link ([`Responder::serve`]) and what was received
/// ([`Responder::receive`]), and has frames to send then ([`Responder::transmit`]).
#[derive(Default)]
pub struct Responder {
    links: BTreeMap<IfName, Link>,
    frames: Queue<Frame>,
}

struct Link {
    own: Ipv6Addr,
    /// None is part of another; by their first address.
    prefixes: BTreeMap<Ipv6Addr, Ipv6Net>,
}

impl Responder {
    /// What is answered for on a link from now on.
    pub fn serve(&mut self, device: IfName, neighbours: Option<Neighbours>) {
        let Some(Neighbours { address, prefixes }) = neighbours else {
            self.links.remove(&device);
            return;
        };
        let prefixes = prefixes.into_iter().map(|prefix| (prefix.network(), prefix)).collect();
        self.links.insert(device, Link { own: address, prefixes });
    }

    /// A frame came in by a device with this MAC.
    pub fn receive(&mut self, device: &IfName, own_mac: MacAddr, frame: &[u8]) {
        let Some(link) = self.links.get(device) else { return };
        let Some(asked) = parse_solicitation(frame) else { return };
        let near = link.prefixes.range(..=asked.target).next_back();
        if near.is_some_and(|(_, prefix)| prefix.contains(&asked.target))
            && let Some(bytes) = advertisement(own_mac, link.own, &asked)
        {
            self.frames.push(Frame { device: device.clone(), bytes });
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Frame> {
        self.frames.pop()
    }
}
