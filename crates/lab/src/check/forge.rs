use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use viaduct_types::{IpNet, MacAddr, Proto};

use super::{
    Finding, Scene,
    packets::{self, BROADCAST, Packet, Token},
    resolve::Until,
};
use crate::{
    file::Name,
    inventory::{Card, gateways, neighbours},
    packet::PacketSocket,
    sentence::{Forge, Forgery, Heard, Wrap},
};

/// Each frame is sent that often, a tenth of a second apart.
const ROUNDS: u32 = 3;
const ROUND: Duration = Duration::from_millis(100);

/// How long is listened after the last round.
const LISTEN: Duration = Duration::from_millis(600);

/// Where nobody listens (RFC 863).
const DISCARD: u16 = 9;

/// Somebody that frames are sent to.
struct Goal {
    macs: Vec<MacAddr>,
    addresses: Vec<IpAddr>,
    port: u16,
}

impl Scene<'_> {
    /// Sends the frames from within the machine, and hears who gets them.
    pub(super) fn forge(self, forge: &Forge) -> io::Result<Finding> {
        let token = packets::token()?;
        let next_hops = self.next_hops(forge)?;
        let goals = self.goals(forge);
        let ears = self.ears(forge)?;
        let mut heard = BTreeMap::new();
        let sent = self.inside(&forge.from, || {
            let mut outlets = Vec::new();
            for card in self.cards(&forge.from) {
                let frames = frames(forge, card, &next_hops, &goals, &token);
                outlets.push((PacketSocket::on(card.index)?, frames));
            }
            for _ in 0..ROUNDS {
                for (outlet, frames) in &outlets {
                    frames.iter().try_for_each(|frame| outlet.send(frame))?;
                }
                std::thread::sleep(ROUND);
                ears.listen(&token, &mut heard);
                if let Forgery::Claim(address) = forge.what {
                    // At once: the right owner may speak up, too.
                    self.who_believes(forge, address, &mut heard)?;
                }
            }
            Ok(outlets.iter().map(|(_, frames)| frames.len()).sum::<usize>())
        })?;
        if sent == 0 {
            let message = format!("{} has no interface or no address to send that from", forge.from);
            return Err(io::Error::other(message));
        }
        let hears = |heard: &BTreeMap<String, usize>, name: &Name| {
            heard.contains_key(name.as_str()) || heard.contains_key(&cache(name))
        };
        let all_heard = |heard: &BTreeMap<String, usize>| match &forge.heard {
            Heard::By(names) => names.iter().all(|name| hears(heard, name)),
            Heard::ByNobody | Heard::NotBy(_) => false,
        };
        let end = Instant::now() + LISTEN;
        while Instant::now() < end && !all_heard(&heard) {
            std::thread::sleep(Duration::from_millis(20));
            ears.listen(&token, &mut heard);
        }
        if ears.overrun() && !all_heard(&heard) {
            return Err(io::Error::other("more frames than could be looked at"));
        }
        let told: Vec<String> = heard.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        let by = if told.is_empty() { "nobody".to_owned() } else { told.join(", ") };
        let holds = match &forge.heard {
            Heard::ByNobody => heard.is_empty(),
            Heard::By(_) => all_heard(&heard),
            Heard::NotBy(names) => !names.iter().any(|name| hears(&heard, name)),
        };
        Ok(Finding { holds, detail: format!("{sent} frames, heard by {by}") })
    }

    /// Whose caches took the claim in.
    fn who_believes(
        self,
        forge: &Forge,
        address: IpAddr,
        heard: &mut BTreeMap<String, usize>,
    ) -> io::Result<()> {
        let own: BTreeSet<MacAddr> = self.cards(&forge.from).iter().map(|card| card.mac).collect();
        for (name, place) in self.world.machines.iter().filter(|(name, _)| **name != forge.from) {
            let known = neighbours(place.net.as_fd())?;
            if known.iter().any(|(a, mac)| *a == address && own.contains(mac)) {
                *heard.entry(cache(name)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The MAC addresses that the machine sends to when it behaves: its gateways', and its host's on a segment of both. It asks for them
    /// by itself, whatever its kernel knows.
    fn next_hops(self, forge: &Forge) -> io::Result<BTreeSet<MacAddr>> {
        let own: Vec<IpNet> = self.cards(&forge.from).iter().flat_map(Card::subnets).collect();
        let host = self.lab.host_of(&forge.from);
        let on_host = host.into_iter().flat_map(|host| self.cards(host));
        let is_beside =
            |card: &&Card| card.addresses.iter().any(|(a, _)| own.iter().any(|subnet| subnet.contains(a)));
        let mut hops: BTreeSet<MacAddr> = on_host.filter(is_beside).map(|card| card.mac).collect();
        for gateway in gateways(self.world.machines[&forge.from].net.as_fd())? {
            let answers = self.inside(&forge.from, || self.ask(&forge.from, gateway, Until::OneAnswered))?;
            hops.extend(answers.into_iter().map(|(told, _)| told));
        }
        Ok(hops)
    }

    /// All other machines.
    fn goals(self, forge: &Forge) -> Vec<Goal> {
        let port = |name: &Name| {
            let mut listens = self.lab.machines[name].listen.iter();
            listens.find(|(_, proto)| *proto == Proto::Udp).map_or(DISCARD, |&(port, _)| port)
        };
        let others = self.lab.machines.keys().filter(|name| **name != forge.from);
        others
            .map(|name| Goal {
                macs: self.cards(name).iter().map(|card| card.mac).collect(),
                addresses: self.inventory.addresses(name).collect(),
                port: port(name),
            })
            .collect()
    }
}

/// Every frame for one of the sender's interfaces.
fn frames(
    forge: &Forge,
    card: &Card,
    next_hops: &BTreeSet<MacAddr>,
    goals: &[Goal],
    token: &Token,
) -> Vec<Vec<u8>> {
    let from = match forge.what {
        Forgery::Packets { mac, .. } => mac.unwrap_or(card.mac),
        Forgery::Claim(_) | Forgery::Probe(_) | Forgery::DhcpServer | Forgery::Router => card.mac,
    };
    let mut frames = Frames { all: Vec::new(), from, wrap: forge.wrap };
    let everybody: BTreeSet<MacAddr> = goals.iter().flat_map(|goal| goal.macs.iter().copied()).collect();
    let to_all: Vec<MacAddr> =
        everybody.into_iter().chain([BROADCAST, packets::multicast_mac(packets::ALL_NODES)]).collect();
    match forge.what {
        Forgery::Packets { address, mac } => {
            for goal in goals {
                let macs: Vec<MacAddr> =
                    goal.macs.iter().chain(next_hops).copied().chain([BROADCAST]).collect();
                for &to in &goal.addresses {
                    if let Some(source) = address.or_else(|| card.source_for(to)) {
                        frames.add(&packets::probes(source, to, goal.port, token), &macs);
                    }
                }
            }
            if mac.is_some() {
                frames.add(&[packets::stranger(token)], &to_all);
            }
        }
        Forgery::Claim(IpAddr::V4(address)) => {
            for goal in goals {
                for to in goal.addresses.iter().filter_map(|a| match a {
                    IpAddr::V4(a) => Some(*a),
                    IpAddr::V6(_) => None,
                }) {
                    for &mac in &goal.macs {
                        let claims = packets::claims_v4(card.mac, address, (mac, to), token);
                        frames.add(&claims, &[mac, BROADCAST]);
                        frames.add(&claims, &next_hops.iter().copied().collect::<Vec<_>>());
                    }
                }
            }
        }
        Forgery::Claim(IpAddr::V6(address)) => {
            let own = card.link_local().unwrap_or_else(|| card.mac.link_local());
            let hops: Vec<MacAddr> = next_hops.iter().copied().collect();
            frames.add(&packets::claims_v6(card.mac, own, address, packets::ALL_NODES, token), &to_all);
            frames.add(&packets::claims_v6(card.mac, own, address, packets::ALL_NODES, token), &hops);
            for goal in goals {
                for to in goal.addresses.iter().filter_map(as_v6) {
                    frames.add(&packets::claims_v6(card.mac, own, address, to, token), &goal.macs);
                    frames.add(&packets::claims_v6(card.mac, own, address, to, token), &hops);
                }
            }
        }
        Forgery::Probe(address) => {
            let (probe, group) = match address {
                IpAddr::V4(address) => (packets::probe_v4(card.mac, address, token), None),
                IpAddr::V6(address) => {
                    (packets::probe_v6(address, token), Some(packets::solicited_node(address)))
                }
            };
            let groups = group.map(packets::multicast_mac);
            let to: Vec<MacAddr> =
                to_all.into_iter().chain(next_hops.iter().copied()).chain(groups).collect();
            frames.add(&[probe], &to);
        }
        Forgery::DhcpServer => {
            if let Some(IpAddr::V4(own)) = card.source_for(std::net::Ipv4Addr::BROADCAST.into()) {
                frames.add(&[packets::dhcp_offer(own, token)], &to_all);
            }
            let own = card.link_local().unwrap_or_else(|| card.mac.link_local());
            frames.add(&[packets::dhcpv6_advertisement(own, token)], &to_all);
        }
        Forgery::Router => {
            let own = card.link_local().unwrap_or_else(|| card.mac.link_local());
            frames.add(&[packets::router_advertisement(card.mac, own, token)], &to_all);
        }
    }
    frames.all
}

struct Frames {
    all: Vec<Vec<u8>>,
    from: MacAddr,
    wrap: Wrap,
}

impl Frames {
    fn add(&mut self, packets: &[Packet], to: &[MacAddr]) {
        let whole = packets.iter().cloned();
        let packets: Vec<Packet> = match self.wrap {
            Wrap::Fragments => whole.flat_map(|packet| packet.fragments()).collect(),
            Wrap::Plain | Wrap::Vlan(_) | Wrap::DoubleTags => whole.collect(),
        };
        for packet in &packets {
            self.all.extend(to.iter().map(|&to| packet.frame(self.from, to, self.wrap)));
        }
    }
}

fn cache(name: &Name) -> String {
    format!("{name}'s neighbour cache")
}

fn as_v6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(a) => Some(*a),
        IpAddr::V4(_) => None,
    }
}
