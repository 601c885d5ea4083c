//! Vnets that nothing protects: the kernel carries their frames as VXLAN, and is told where to.
//!
//! What it is told is derived anew whenever something has changed, and compared with what it was told before: each MAC at a
//! peer leads to where that peer's connection leads, by the number that the peer chose, and what is for everybody goes to
//! each member. The bridge lets in only what comes from those MACs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use viaduct_types::{HostKey, IfName, MacAddr, VNET_PORT, Vni};
use viaduct_vnet_proto::control::SessionId;

use super::{
    PlainOrders,
    engine::{Engine, Vnet},
    fdb::{self, EVERYBODY, Far, Near, Remote},
    link::Link,
    peers::Peer,
};

/// Of the time, a bridge is looked at for one in so many parts.
const SHARE: u32 = 100;
/// And the kernel is told of vnets for one in so many: a member may claim tens of thousands of MACs in each, and have all of them be
/// somewhere else with a few bytes.
const TELLING: u32 = 3;
/// So much it is told of one at once, and after so long of no other. The rest follows.
const AT_ONCE: (usize, Duration) = (4_096, Duration::from_millis(10));
/// Whatever it takes, what somebody has changed there is found within this.
const SELDOM: Duration = Duration::from_secs(2);

/// What the kernel is told of one vnet.
#[derive(Debug)]
pub(super) struct Plain {
    first: IfName,
    orders: PlainOrders,
    /// Of the devices, IPv4's and IPv6's, and of the bridge, as long as they are there.
    numbers: Option<Numbers>,
    /// By which number each member takes frames.
    members: BTreeMap<HostKey, Vni>,
    /// Where they were the last time.
    places: BTreeMap<HostKey, Remote>,
    /// Whether there is something to tell, and when something was told the last time.
    changed: bool,
    told: Duration,
    /// How many frames the host itself had sent into the bridge when that was last looked at.
    spoken: u64,
    pace: Pace,
    fars: BTreeSet<(u32, Far)>,
    nears: BTreeMap<Near, bool>,
}

/// When a bridge is looked at, or the kernel told: it takes the longer to tell all that it knows, the more that is.
#[derive(Debug, Default)]
pub(super) struct Pace(Duration);

impl Pace {
    fn is_due(&self, now: Duration) -> bool {
        now >= self.0
    }

    /// What was begun then has taken so long, and may take one in so many parts of the time.
    fn took(&mut self, begun: Duration, took: Duration, share: u32) {
        self.0 = begun + took.saturating_mul(share).min(SELDOM);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    v4: u32,
    v6: Option<u32>,
    bridge: u32,
}

impl Numbers {
    fn device(self, to: Remote) -> Option<u32> {
        match to.ip {
            IpAddr::V4(_) => Some(self.v4),
            IpAddr::V6(_) => self.v6,
        }
    }

    fn is_far(self, port: u32) -> bool {
        port == self.v4 || self.v6 == Some(port)
    }
}

impl Plain {
    pub(super) fn new(first: IfName, orders: PlainOrders) -> Self {
        Self {
            first,
            orders,
            numbers: None,
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            changed: true,
            told: Duration::ZERO,
            spoken: 0,
            pace: Pace::default(),
            fars: BTreeSet::new(),
            nears: BTreeMap::new(),
        }
    }

    pub(super) fn orders(&self) -> &PlainOrders {
        &self.orders
    }

    /// Where each member is.
    pub(super) fn places(&self) -> impl Iterator<Item = (&HostKey, &Remote)> {
        self.places.iter()
    }

    /// Where the members are by now. Who is away for a moment is where it was; who is reached by way of another host is nowhere.
    fn places_now(
        &self,
        peers: &BTreeMap<HostKey, Peer>,
        links: &BTreeMap<SessionId, Link>,
    ) -> BTreeMap<HostKey, Remote> {
        let link = |key: &HostKey| links.get(&peers.get(key)?.session?);
        let place = |key: &HostKey| match link(key) {
            Some(link) => link.via().is_none().then(|| link.remote().into()),
            None => self.places.get(key).copied(),
        };
        self.members.keys().filter_map(|key| Some((*key, place(key)?))).collect()
    }

    /// A member takes frames by this number, or none any more.
    pub(super) fn speak(&mut self, peer: HostKey, vni: Option<Vni>) {
        self.changed = true;
        match vni {
            Some(vni) => self.members.insert(peer, vni),
            None => self.members.remove(&peer),
        };
    }

    fn look(&self) -> Option<Numbers> {
        let v6 = self.orders.second.as_ref().map(fdb::index);
        Some(Numbers {
            v4: fdb::index(&self.first)?,
            v6: match v6 {
                Some(number) => Some(number?),
                None => None,
            },
            bridge: fdb::index(&self.orders.bridge)?,
        })
    }

    /// Begins with devices that are there now, and with what somebody before has told them.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        let numbers = self.look().ok_or_else(|| format!("there is no device {} yet", self.first))?;
        let locked = [Some(numbers.v4), numbers.v6].into_iter().flatten().try_for_each(fdb::lock);
        locked.map_err(|error| format!("{}: the bridge's port is not locked: {error}", self.first))?;
        let known = fdb::known(numbers.bridge, self.orders.vni)
            .map_err(|error| format!("{}: {error}", self.orders.bridge))?;
        let far_ports = known.nears.into_iter().filter(|near| numbers.is_far(near.port));
        self.nears = far_ports.map(|near| (near, false)).collect();
        self.fars = known.fars.into_iter().filter(|(device, _)| numbers.is_far(*device)).collect();
        self.numbers = Some(numbers);
        self.pace = Pace::default();
        self.changed = true;
        Ok(())
    }

    /// Behind which of the host's own ports a MAC has been heard.
    pub(super) fn nears(&self, mac: MacAddr) -> io::Result<Vec<Near>> {
        let Some(numbers) = self.numbers else { return Ok(Vec::new()) };
        let known = fdb::known(numbers.bridge, self.orders.vni)?.nears.into_iter();
        Ok(known.filter(|near| near.mac == mac && !numbers.is_far(near.port)).collect())
    }

    /// Whether the devices are those that were there when it began.
    fn is_there(&self) -> bool {
        self.look() == self.numbers
    }

    /// Whether the bridge has what it was told of MACs at peers: others may take it away. Those that have been heard on this host
    /// since are somewhere else by now.
    fn is_still_told(&self, known: &[Near]) -> bool {
        let known: BTreeSet<MacAddr> = known.iter().map(|near| near.mac).collect();
        self.nears.keys().all(|near| known.contains(&near.mac))
    }

    /// Tells the kernel what it has not been told: where these MACs are, each with whether it is one of this host's that
    /// went there. What is too much for once is still to be told then.
    fn tell(&mut self, macs: &BTreeMap<MacAddr, (Remote, Vni, bool)>) {
        let Some(numbers) = self.numbers else { return };
        let to_all = self.places.iter().filter_map(|(key, to)| {
            let far = Far { mac: EVERYBODY, to: *to, vni: *self.members.get(key)? };
            Some((numbers.device(*to)?, far))
        });
        let one = macs.iter().filter_map(|(mac, (to, vni, _))| {
            Some((numbers.device(*to)?, Far { mac: *mac, to: *to, vni: *vni }))
        });
        let fars: BTreeSet<(u32, Far)> = to_all.chain(one).collect();
        let nears: BTreeMap<Near, bool> = macs
            .iter()
            .filter_map(|(mac, (to, _, stays))| {
                Some((Near { port: numbers.device(*to)?, mac: *mac }, *stays))
            })
            .collect();
        let mut done = Ok(());
        let mut note = |result: io::Result<()>| {
            if result.is_err() {
                done = result;
            }
        };
        // The new before the old: in between there is a way, be it the one of before.
        let mut left = AT_ONCE.0;
        let new: Vec<(u32, Far)> = within(&mut left, fars.difference(&self.fars).copied());
        let is_led = |(near, stays): &(&Near, &bool)| self.nears.get(near) == Some(stays);
        let led = nears.iter().filter(|both| !is_led(both)).map(|(near, stays)| (*near, *stays));
        let led: Vec<(Near, bool)> = within(&mut left, led);
        let old: Vec<(u32, Far)> = within(&mut left, self.fars.difference(&fars).copied());
        let not_led: Vec<Near> =
            within(&mut left, self.nears.keys().filter(|near| !nears.contains_key(near)).copied());
        for (device, far) in new {
            note(fdb::send_to(device, far));
            self.fars.insert((device, far));
        }
        for (near, stays) in led {
            note(fdb::lead(near, stays));
            self.nears.insert(near, stays);
        }
        for (device, far) in old {
            note(fdb::send_no_more(device, far));
            self.fars.remove(&(device, far));
        }
        for near in not_led {
            note(fdb::lead_no_more(near));
            self.nears.remove(&near);
        }
        self.changed |= left == 0;
        if let Err(error) = done {
            warn!("{}: the kernel is not told where frames go: {error}", self.first);
        }
    }
}

/// So many of them as there is room for.
fn within<T>(left: &mut usize, all: impl Iterator<Item = T>) -> Vec<T> {
    let taken: Vec<T> = all.take(*left).collect();
    *left -= taken.len();
    taken
}

impl Engine {
    /// When the kernel is told of what has changed, if something has.
    pub(super) fn telling_due(&self) -> Option<Duration> {
        let mut plains =
            self.vnets.values().filter(|vnet| vnet.carried).filter_map(|vnet| vnet.plain.as_ref());
        plains.any(|plain| plain.changed).then_some(self.telling.0)
    }

    /// Tells the kernel, and whoever guards its port, where the members of vnets are that nothing protects.
    pub(super) fn tell_kernel(&mut self) {
        let now = self.now();
        let Self { vnets, peers, links, findings, .. } = self;
        let mut changed = Vec::new();
        for (id, vnet) in vnets.iter_mut().filter(|(_, vnet)| vnet.carried) {
            let Some(plain) = &mut vnet.plain else { continue };
            plain.changed |= vnet.tables.take_change() || plain.places_now(peers, links) != plain.places;
            if plain.changed {
                changed.push((plain.told, *id));
            }
        }
        if changed.is_empty() || !self.telling.is_due(now) {
            return;
        }
        let begun = Instant::now();
        let keys: BTreeMap<_, _> = peers.iter().map(|(key, peer)| (peer.id, *key)).collect();
        // Of whom nothing was told for longest comes first: where much is told of others, a guest that moves does not wait for it.
        changed.sort();
        for (_, id) in changed {
            if begun.elapsed() >= AT_ONCE.1 {
                break;
            }
            let Some(vnet) = vnets.get_mut(&id) else { continue };
            let Some(plain) = &mut vnet.plain else { continue };
            (plain.changed, plain.told) = (false, now);
            plain.places = plain.places_now(peers, links);
            let reached: BTreeSet<IpAddr> = plain.places.values().map(|remote| remote.ip).collect();
            match reached.is_empty() {
                true => findings.reached.remove(&id),
                false => findings.reached.insert(id, reached),
            };
            let macs = vnet
                .tables
                .remote_macs()
                .filter_map(|(mac, peer)| {
                    let key = keys.get(&peer)?;
                    let stays = vnet.own.contains(&mac)
                        || vnet.tables.is_learning()
                            && (vnet.tables.is_attached_elsewhere(mac) || vnet.flips.stays(mac));
                    let to = (*plain.places.get(key)?, *plain.members.get(key)?, stays);
                    Some((mac, to))
                })
                .collect();
            plain.tell(&macs);
        }
        self.telling.took(now, begun.elapsed(), TELLING);
    }

    /// Looks which machines are behind the bridges of vnets that nothing protects: no frame of theirs is seen here.
    pub(super) fn hear_bridges(&mut self) {
        let now = self.now();
        let mut heard = Vec::new();
        for (id, vnet) in &mut self.vnets {
            let Some(plain) = vnet.plain.as_mut().filter(|_| vnet.carried) else { continue };
            if !plain.is_there() {
                info!("vnet {}: its device {} is gone", vnet.name, plain.first);
                vnet.carried = false;
                continue;
            }
            let (Some(orders), Some(numbers)) = (self.orders.vnets.get(id), plain.numbers) else { continue };
            let prepared = || orders.nics.iter().filter(|(_, nic)| nic.prepared).map(|(mac, _)| *mac);
            let is_waiting = orders.learning || prepared().next().is_some();
            // The host itself is behind the bridge when it speaks there: that the bridge has a MAC says nothing yet.
            let sent = fdb::frames_out(numbers.bridge).unwrap_or(0);
            if orders.learning && std::mem::replace(&mut plain.spoken, sent) != sent && sent > 0 {
                let own = fdb::own_mac(numbers.bridge);
                heard.extend(own.filter(|mac| !vnet.learned.contains(*mac)).map(|mac| (*id, mac)));
            }
            // A port that leaves its bridge takes along what the bridge was told, and its lock; then what it hears looks the same.
            if std::iter::once(numbers.v4).chain(numbers.v6).any(fdb::learns) {
                warn!("vnet {}: {} was taken out of its bridge; it begins anew", vnet.name, plain.first);
                vnet.carried = false;
                continue;
            }
            if !plain.pace.is_due(now) {
                // A guest that has arrived does not wait for that.
                let is_near = |mac: &MacAddr| {
                    fdb::heard(numbers.bridge, *mac)
                        .is_ok_and(|known| known.is_some_and(|(near, _)| !numbers.is_far(near.port)))
                };
                heard.extend(prepared().filter(is_near).map(|mac| (*id, mac)));
                continue;
            }
            let begun = Instant::now();
            let known = fdb::known(numbers.bridge, plain.orders.vni);
            plain.pace.took(now, begun.elapsed(), SHARE);
            match known {
                Ok(known) if !plain.is_still_told(&known.nears) => {
                    warn!("vnet {}: {} was told otherwise; it begins anew", vnet.name, plain.orders.bridge);
                    vnet.carried = false;
                }
                Ok(known) => {
                    let is_news = |near: &Near| {
                        is_waiting
                            && !numbers.is_far(near.port)
                            && !vnet.own.contains(&near.mac)
                            && !vnet.learned.contains(near.mac)
                    };
                    heard.extend(known.nears.into_iter().filter(is_news).map(|near| (*id, near.mac)));
                }
                Err(error) => debug!("vnet {}: {}: {error}", vnet.name, plain.orders.bridge),
            }
        }
        for (id, mac) in heard {
            self.learn(id, mac);
            self.arrived(id, mac);
        }
    }

    /// Frames that the kernel has sent in vnets that nothing protects, for each peer that is in one: whether there is traffic on
    /// its path.
    pub(super) fn plain_frames(&self) -> BTreeMap<HostKey, u64> {
        let mut frames = BTreeMap::new();
        for plain in self.vnets.values().filter_map(|vnet| vnet.plain.as_ref()) {
            let devices = std::iter::once(&plain.first).chain(&plain.orders.second);
            let sent: u64 = devices.filter_map(|device| fdb::frames_out(fdb::index(device)?)).sum();
            for key in plain.members.keys() {
                *frames.entry(*key).or_default() += sent;
            }
        }
        frames
    }

    /// Why a vnet that nothing protects does not reach somebody who is in it.
    pub(super) fn unreached(&self, vnet: &Vnet) -> Option<String> {
        let plain = vnet.plain.as_ref()?;
        plain.members.keys().find_map(|key| {
            let peer = self.peers.get(key)?;
            let link = self.links.get(&peer.session?)?;
            let remote = link.remote();
            if link.via().is_some() {
                return Some(format!(
                    "{} is reached by way of another host only: without security, frames do not get there",
                    peer.name
                ));
            }
            (remote.port() != VNET_PORT).then(|| {
                format!(
                    "{} is behind a router that translates addresses ({remote}): without security, frames do not get \
                     there",
                    peer.name
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use viaduct_vnet_proto::control::MOST_CLAIMS;

    use super::*;

    /// How often a bridge is looked at in a minute, and for how long at most it is not, when each look takes so long.
    fn looks(took: Duration) -> (u32, Duration) {
        let (mut pace, mut count, mut last, mut longest) =
            (Pace::default(), 0, Duration::ZERO, Duration::ZERO);
        for tick in 1..=240 {
            let now = Duration::from_millis(250) * tick;
            if pace.is_due(now) {
                pace.took(now, took, SHARE);
                (count, longest, last) = (count + 1, longest.max(now - last), now);
            }
        }
        (count, longest)
    }

    #[test]
    fn a_bridge_that_knows_much_is_looked_at_less_often_and_never_too_seldom() {
        let milliseconds = Duration::from_millis;
        assert_eq!(
            looks(milliseconds(2)),
            (240, milliseconds(250)),
            "what costs nothing is done at each turn"
        );
        for took in [3, 5, 10, 20].map(milliseconds) {
            let (count, longest) = looks(took);
            assert!(took * count <= Duration::from_secs(60) / 100, "{took:?}: {count}");
            assert!(longest <= SELDOM, "{took:?}: {longest:?}");
        }
        assert_eq!(looks(Duration::from_secs(1)), (30, SELDOM));
    }

    #[test]
    fn it_is_soon_seen_that_a_bridge_has_all_that_a_peer_may_claim() {
        let near = |port, number: usize| {
            let [.., a, b, c, d] = number.to_be_bytes();
            Near { port, mac: MacAddr([2, 0, a, b, c, d]) }
        };
        let bridge = "br0".parse().unwrap();
        let orders = PlainOrders { vni: Vni::new(1).unwrap(), second: None, bridge };
        let mut plain = Plain::new("vx0".parse().unwrap(), orders);
        plain.nears = (0..MOST_CLAIMS).map(|number| (near(7, number), false)).collect();
        // Those that have been heard at another port since are known, too.
        let mut known: Vec<Near> = (0..MOST_CLAIMS).rev().map(|number| near(8, number)).collect();
        let begun = Instant::now();
        assert!(plain.is_still_told(&known));
        known.remove(5);
        assert!(!plain.is_still_told(&known));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
