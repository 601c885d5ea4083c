//! A DHCP server (RFC 2131) that answers from the configuration: each NIC has its address before it asks.

mod answer;
mod probe;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::Ipv4Addr, rc::Rc, time::Duration};

use serde::{Deserialize, Serialize};
use viaduct_plan::{Client, ServedLink};
use viaduct_types::{IfName, MacAddr, NicId};
use viaduct_wire::{
    arp,
    dhcp4::{self, Kind, Request, option},
    udp4::{self, Way},
};

use crate::{Event, Frame, clients::Clients, queue::Queue};
use probe::Probes;

/// The server. It is told what to serve ([`Server::serve`]) and what was received ([`Server::receive`]); after each of
/// the two, and when [`Server::due`] has come ([`Server::tick`]), it has frames to send ([`Server::transmit`]) and things
/// to tell ([`Server::event`]). Times are since any moment that stays the same.
#[derive(Default)]
pub struct Server {
    devices: BTreeMap<IfName, Clients<Rc<Client>>>,
    probes: Probes,
    frames: Queue<Frame>,
    events: Queue<Event>,
    counts: Counts,
}

/// What was answered, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Addresses offered.
    pub offers: u64,
    /// Addresses confirmed, and questions for the rest answered.
    pub acks: u64,
    /// Wrong addresses refused.
    pub naks: u64,
    /// Addresses that clients gave back or found in use.
    pub returned: u64,
    /// Messages of nobody that is served here.
    pub unknown: u64,
    /// Messages for another server.
    pub others: u64,
    /// What is no message of a client, or contradicts itself.
    pub malformed: u64,
}

impl Server {
    /// What is to be served on a device from now on, where these NICs of it are served something else than before.
    pub fn serve<'a>(
        &mut self,
        device: &IfName,
        link: &ServedLink,
        changed: impl IntoIterator<Item = &'a NicId>,
    ) {
        let clients = self.devices.entry(device.clone()).or_default();
        for nic in changed {
            let client = link.nics.get(nic).and_then(|nic| nic.client.as_ref());
            clients.set(nic, client.map(|client| (client.mac, Rc::new(client.clone()))));
        }
        self.probes.retain(device, |mac, address| {
            clients.get(mac).is_some_and(|client| client.address.addr() == address)
        });
        if clients.is_empty() {
            self.devices.remove(device);
        }
    }

    /// A frame came in by a device whose own MAC is `own`.
    pub fn receive(&mut self, now: Duration, device: &IfName, own: MacAddr, frame: &[u8]) {
        if let Some(arp) = arp::parse(frame) {
            self.heard(device, &arp);
            return;
        }
        let Some((way, payload)) = udp4::parse(frame) else { return };
        if way.to_port != dhcp4::SERVER {
            return;
        }
        let Some(request) = Request::parse(payload) else {
            self.counts.malformed += 1;
            return;
        };
        // The client is known by what the anti-spoofing rules hold it to, not by what it says of itself.
        let client = self.devices.get(device).and_then(|clients| clients.get(way.from_mac)).cloned();
        match client.filter(|client| request.chaddr == client.mac) {
            Some(client) => self.answer(now, &Asked { device, own, way, request, client }),
            None => self.counts.unknown += 1,
        }
    }

    /// When something is to be done without being asked.
    pub fn due(&self) -> Option<Duration> {
        self.probes.due()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        for step in self.probes.tick(now) {
            match step {
                probe::Step::Ask(frame) => self.send(frame),
                probe::Step::Free(waiting) => self.offer(&waiting.asked()),
            }
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Frame> {
        self.frames.pop()
    }

    /// The next thing to tell.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// What was answered since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn answer(&mut self, now: Duration, asked: &Asked<'_>) {
        let address = asked.client.address.addr();
        let request = &asked.request;
        let wanted = request.address(option::REQUESTED);
        let server = request.address(option::SERVER);
        match request.kind {
            Kind::Discover if self.must_be_probed(asked) => {
                let waiting = probe::Waiting::new(asked);
                if let Some(frame) = self.probes.begin(now, waiting) {
                    self.send(frame);
                }
            }
            Kind::Discover => self.offer(asked),
            Kind::Request => match (server, wanted, request.ciaddr) {
                (Some(server), _, _) if server != asked.client.server => self.counts.others += 1,
                // Chosen among offers, remembered from before a restart (RFC 2131, 4.3.2), or renewed.
                (_, Some(wanted), _) if wanted == address => self.acknowledge(asked),
                (None, None, has) if has == address => self.acknowledge(asked),
                (None, None, Ipv4Addr::UNSPECIFIED) => self.counts.malformed += 1,
                _ => self.refuse(asked),
            },
            Kind::Inform => {
                self.counts.acks += 1;
                self.reply(asked, answer::rest(&asked.client, request), Some(request.ciaddr));
            }
            Kind::Decline => {
                self.counts.returned += 1;
                if wanted == Some(address) {
                    self.in_use(asked.client.nic.clone(), address, None);
                }
            }
            // The address stays the NIC's: it is asked for again.
            Kind::Release => self.counts.returned += 1,
            Kind::Offer | Kind::Ack | Kind::Nak => self.counts.malformed += 1,
        }
    }

    fn must_be_probed(&self, asked: &Asked<'_>) -> bool {
        let client = &asked.client;
        client.lent && client.shared && !self.probes.is_free(asked.device, client.mac)
    }

    fn offer(&mut self, asked: &Asked<'_>) {
        self.counts.offers += 1;
        self.reply(asked, answer::whole(Kind::Offer, &asked.client, &asked.request), None);
    }

    fn acknowledge(&mut self, asked: &Asked<'_>) {
        self.counts.acks += 1;
        if self.devices.get_mut(asked.device).is_some_and(|clients| clients.configured(asked.client.mac)) {
            let (nic, address) = (asked.client.nic.clone(), asked.client.address.addr().into());
            self.tell(Event::Configured { nic, address });
        }
        self.reply(asked, answer::whole(Kind::Ack, &asked.client, &asked.request), None);
    }

    fn refuse(&mut self, asked: &Asked<'_>) {
        self.counts.naks += 1;
        self.reply(asked, answer::refusal(&asked.client), Some(Ipv4Addr::BROADCAST));
    }

    /// Sends an answer; `to` says to which address, unless it is the one that is given.
    fn reply(&mut self, asked: &Asked<'_>, reply: dhcp4::Reply, to: Option<Ipv4Addr>) {
        let request = &asked.request;
        let relayed = !request.giaddr.is_unspecified();
        let to = match to {
            _ if relayed => request.giaddr,
            Some(to) if !to.is_unspecified() => to,
            _ if request.broadcast => Ipv4Addr::BROADCAST,
            _ => reply.yiaddr,
        };
        let way = Way {
            from_mac: asked.own,
            // Also what is for everybody in IP goes to this guest alone, whose network is nobody else's business.
            to_mac: asked.way.from_mac,
            from: asked.client.server,
            to,
            from_port: dhcp4::SERVER,
            to_port: if relayed { dhcp4::SERVER } else { dhcp4::CLIENT },
        };
        if let Some(bytes) = udp4::build(&way, &reply.encode(request)) {
            self.send(Frame { device: asked.device.clone(), bytes });
        }
    }

    /// Somebody spoke ARP where addresses are looked for.
    fn heard(&mut self, device: &IfName, arp: &arp::Arp) {
        if let Some(waiting) = self.probes.taken(device, arp) {
            let client = waiting.asked().client;
            self.in_use(client.nic.clone(), client.address.addr(), Some(arp.sender_mac));
        }
    }

    fn in_use(&mut self, nic: NicId, address: Ipv4Addr, holder: Option<MacAddr>) {
        self.tell(Event::InUse { nic, address: address.into(), holder });
    }

    fn send(&mut self, frame: Frame) {
        self.frames.push(frame);
    }

    fn tell(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// A message of a client that is known.
struct Asked<'a> {
    device: &'a IfName,
    own: MacAddr,
    way: Way,
    request: Request,
    client: Rc<Client>,
}
