//! A DHCPv6 server (RFC 8415) that answers from the configuration: each NIC has its addresses, and the prefix of what is
//! behind it, before it asks.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use viaduct_plan::{Client6, ServedLink};
use viaduct_types::{IfName, Ipv6Net, MacAddr, NicId};
use viaduct_wire::{
    dhcp6::{self, Association, Given, Kind, Lifetime, Reply, Request, Status, duid_of},
    udp6::{self, Way},
};

use crate::{Event, Frame, clients::Clients, queue::Queue};

/// Seconds that an address is given for. A guest learns of a change in its configuration after half of that.
const LEASE: Lifetime = Lifetime { preferred: 3600, valid: 7200 };
/// The same for an address that was lent until the guest has one of its own, which is soon.
const LENT: Lifetime = Lifetime { preferred: 120, valid: 240 };
/// Of so many addresses in an association a client hears that they are over, so that every answer fits a frame.
const OVER: usize = 4;
/// Seconds until who only wants to know the rest asks again.
const REFRESH: u32 = 3600;

/// The server. It is told what to serve ([`Server::serve`]) and what was received ([`Server::receive`]); after that it
/// has frames to send ([`Server::transmit`]) and things to tell ([`Server::event`]). It waits for nothing: whether an
/// address is free the guest itself finds out.
#[derive(Default)]
pub struct Server {
    links: BTreeMap<IfName, Link>,
    frames: Queue<Frame>,
    events: Queue<Event>,
    counts: Counts,
}

#[derive(Default)]
struct Link {
    /// The host's link-local address; none: it is made of the device's MAC.
    address: Option<Ipv6Addr>,
    clients: Clients<Client6>,
    dns: Vec<Ipv6Addr>,
    search: Vec<String>,
}

/// What was answered, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Offers.
    pub advertises: u64,
    /// Answers.
    pub replies: u64,
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
        served: &ServedLink,
        changed: impl IntoIterator<Item = &'a NicId>,
    ) {
        let link = self.links.entry(device.clone()).or_default();
        for nic in changed {
            let client = served.nics.get(nic).and_then(|nic| nic.client6.as_ref());
            link.clients.set(nic, client.map(|client| (client.mac, client.clone())));
        }
        link.address = served.head.router.as_ref().map(|router| router.address);
        link.dns.clone_from(&served.head.dns6);
        link.search.clone_from(&served.head.search);
        if link.clients.is_empty() {
            self.links.remove(device);
        }
    }

    /// A frame came in by a device whose own MAC is `own`.
    pub fn receive(&mut self, device: &IfName, own: MacAddr, frame: &[u8]) {
        let Some((way, payload)) = udp6::parse(frame) else { return };
        // Nobody was told that it may speak to this server alone (RFC 8415, section 18.4).
        if way.to_port != dhcp6::SERVER || way.to != dhcp6::ALL_SERVERS {
            return;
        }
        let Some(request) = Request::parse(payload).filter(|_| way.from.is_unicast_link_local()) else {
            self.counts.malformed += 1;
            return;
        };
        // The client is known by what the anti-spoofing rules hold it to, not by what it says of itself.
        let Some((link, client)) =
            self.links.get(device).and_then(|link| Some((link, link.clients.get(way.from_mac)?)))
        else {
            self.counts.unknown += 1;
            return;
        };
        let answering = Answering { link, client, server: duid_of(own), request: &request };
        match answering.answer() {
            Answer::Say(reply, heard) => {
                if reply.kind == Kind::Advertise {
                    self.counts.advertises += 1;
                } else {
                    self.counts.replies += 1;
                }
                if matches!(request.kind, Kind::Release | Kind::Decline) {
                    self.counts.returned += 1;
                }
                let back = Way {
                    from_mac: own,
                    to_mac: way.from_mac,
                    from: link.address.unwrap_or_else(|| own.link_local()),
                    to: way.from,
                    from_port: dhcp6::SERVER,
                    to_port: dhcp6::CLIENT,
                };
                if let Some(bytes) = udp6::build(&back, &reply.encode(&request)) {
                    self.frames.push(Frame { device: device.clone(), bytes });
                }
                match heard {
                    Heard::Nothing => {}
                    Heard::Configured => self.configured(device, way.from_mac),
                    Heard::InUse(events) => events.into_iter().for_each(|event| self.events.push(event)),
                }
            }
            Answer::Others => self.counts.others += 1,
            Answer::Malformed => self.counts.malformed += 1,
            Answer::Silence => {}
        }
    }

    /// A client has its addresses, which is news only once.
    fn configured(&mut self, device: &IfName, mac: MacAddr) {
        let Some(link) = self.links.get_mut(device) else { return };
        if !link.clients.configured(mac) {
            return;
        }
        let Some(client) = link.clients.get(mac) else { return };
        for address in &client.addresses {
            self.events.push(Event::Configured { nic: client.nic.clone(), address: (*address).into() });
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
}

/// What a message says of how its sender is.
enum Heard {
    Nothing,
    /// It has its addresses.
    Configured,
    /// Somebody else has them.
    InUse(Vec<Event>),
}

enum Answer {
    Say(Box<Reply>, Heard),
    /// It is for another server.
    Others,
    /// Must be ignored (RFC 8415, section 16).
    Malformed,
    /// There is nothing to say.
    Silence,
}

struct Answering<'a> {
    link: &'a Link,
    client: &'a Client6,
    server: Vec<u8>,
    request: &'a Request,
}

impl Answering<'_> {
    fn answer(&self) -> Answer {
        let request = self.request;
        let has_client = request.client.is_some();
        let has_server = request.server.is_some();
        // Which of the two identifiers have to be there, and which must not (RFC 8415, section 16).
        let is_whole = match request.kind {
            Kind::Solicit | Kind::Confirm | Kind::Rebind => has_client && !has_server,
            Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => has_client && has_server,
            Kind::Information => request.addresses.is_empty() && request.prefixes.is_empty(),
            Kind::Advertise | Kind::Reply => false,
        };
        if !is_whole {
            return Answer::Malformed;
        }
        if request.server.as_ref().is_some_and(|server| *server != self.server) {
            return Answer::Others;
        }
        match request.kind {
            Kind::Solicit if request.rapid => {
                self.say(Reply { rapid: true, ..self.bindings(Kind::Reply) }, self.configured())
            }
            Kind::Solicit => {
                let mut reply = self.bindings(Kind::Advertise);
                let has_something = reply.addresses.iter().any(|given| given.status.is_none())
                    || reply.prefixes.iter().any(|given| given.status.is_none());
                if !has_something {
                    // Of the whole, too: the client is not to choose this server (RFC 8415, section 18.3.9).
                    reply.status = reply.addresses.iter().find_map(|given| given.status);
                }
                self.say(reply, Heard::Nothing)
            }
            Kind::Request | Kind::Renew | Kind::Rebind => {
                self.say(self.bindings(Kind::Reply), self.configured())
            }
            Kind::Confirm => {
                let mut asked = request.addresses.iter().flat_map(|association| &association.members);
                if request.addresses.iter().all(|association| association.members.is_empty()) {
                    return Answer::Silence;
                }
                let is_here = asked.all(|address| self.client.addresses.contains(address));
                let status = if is_here { Status::Success } else { Status::NotOnLink };
                self.say(Reply { status: Some(status), ..self.empty(Kind::Reply) }, Heard::Nothing)
            }
            // The addresses stay the NIC's: they are asked for again.
            Kind::Release => {
                self.say(Reply { status: Some(Status::Success), ..self.empty(Kind::Reply) }, Heard::Nothing)
            }
            Kind::Decline => {
                let declined = request.addresses.iter().flat_map(|association| &association.members);
                let own = declined.filter(|address| self.client.addresses.contains(address));
                let events = own.map(|address| Event::InUse {
                    nic: self.client.nic.clone(),
                    address: IpAddr::V6(*address),
                    holder: None,
                });
                let reply = Reply { status: Some(Status::Success), ..self.empty(Kind::Reply) };
                self.say(reply, Heard::InUse(events.collect()))
            }
            Kind::Information => {
                self.say(Reply { refresh: Some(REFRESH), ..self.rest(Kind::Reply) }, Heard::Nothing)
            }
            Kind::Advertise | Kind::Reply => Answer::Malformed,
        }
    }

    fn say(&self, reply: Reply, heard: Heard) -> Answer {
        Answer::Say(Box::new(reply), heard)
    }

    fn configured(&self) -> Heard {
        if self.request.addresses.is_empty() { Heard::Nothing } else { Heard::Configured }
    }

    fn empty(&self, kind: Kind) -> Reply {
        Reply {
            kind,
            server: self.server.clone(),
            status: None,
            rapid: false,
            addresses: Vec::new(),
            prefixes: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            refresh: None,
            boot_file: None,
            boot_parameters: Vec::new(),
        }
    }

    fn rest(&self, kind: Kind) -> Reply {
        let boot = self.client.boot.as_ref();
        let chosen =
            boot.and_then(|boot| Some((self.request.booting.choose(&boot.files)?, &boot.parameters)));
        Reply {
            dns: self.link.dns.clone(),
            search: self.link.search.clone(),
            boot_file: chosen.map(|(file, _)| file.to_owned()),
            boot_parameters: chosen.map(|(_, parameters)| parameters.clone()).unwrap_or_default(),
            ..self.empty(kind)
        }
    }

    /// What is the client's goes into its first association of each kind; of what it has besides, it hears that it is
    /// over.
    fn bindings(&self, kind: Kind) -> Reply {
        let client = self.client;
        let lifetime = if client.lent { LENT } else { LEASE };
        let prefixes: Vec<Ipv6Net> = client.delegated.into_iter().collect();
        let has = matches!(self.request.kind, Kind::Request | Kind::Renew | Kind::Rebind);
        Reply {
            addresses: given(&self.request.addresses, &client.addresses, lifetime, Status::NoAddress, has),
            prefixes: given(&self.request.prefixes, &prefixes, LEASE, Status::NoPrefix, has),
            ..self.rest(kind)
        }
    }
}

fn given<T: Copy + PartialEq>(
    asked: &[Association<T>],
    own: &[T],
    lifetime: Lifetime,
    nothing: Status,
    has: bool,
) -> Vec<Given<T>> {
    let mut own = own;
    let mut all = Vec::new();
    for association in asked {
        let mut members: Vec<(T, Lifetime)> = own.iter().map(|value| (*value, lifetime)).collect();
        let status = members.is_empty().then_some(nothing);
        let over = association.members.iter().filter(|value| has && !own.contains(value));
        members.extend(over.take(OVER).map(|value| (*value, Lifetime::NONE)));
        all.push(Given { id: association.id, members, status });
        own = &[];
    }
    all
}
