//! A router's advertisements (RFC 4861, section 6.2): when they are due, and what is in them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use viaduct_plan::Router;
use viaduct_types::{IfName, Ipv6Net, MacAddr};
use viaduct_wire::{
    ip6::{ALL_NODES, multicast_mac},
    ra::{Advertisement, Prefix, parse_solicitation},
};

use crate::{Frame, queue::Queue};

/// Seconds that a router, its name servers and its routes are good for (RFC 8319). The kernel goes on forwarding when
/// nobody advertises for a while; what is no longer so is taken back at once.
const LIFETIME: u16 = 65_535;
/// The same where guests move to another host, whose own advertisements take the place of these: three times the longest
/// [`INTERVAL`] (RFC 4861, section 6.2.1).
const STRETCHED_LIFETIME: u16 = 1_800;
/// Seconds that prefixes are good for.
const PREFIX_LIFETIME: u32 = 86_400;
/// Between two that nobody asked for, so many seconds at least and at most.
const INTERVAL: (u64, u64) = (200, 600);
/// So many come soon after a change (MAX_INITIAL_RTR_ADVERTISEMENTS), each also saying what is no longer so ...
const FIRST: u8 = 3;
/// ... with at most this in between (MAX_INITIAL_RTR_ADVERT_INTERVAL).
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
/// An answer comes within this time (MAX_RA_DELAY_TIME), so that the ones to many guests do not come at once.
const DELAY: Duration = Duration::from_millis(500);
/// To all of a link one comes no sooner than this after another (MIN_DELAY_BETWEEN_RAS).
const PAUSE: Duration = Duration::from_secs(3);
/// So many of a link are answered one by one at a time; with more, all are answered together, which may have to wait for
/// [`PAUSE`]: a link on which a thousand guests begin at once is not to.
const WAITING: usize = 1_024;

/// All routers that the host is. It is told what each link has to hear ([`Advertiser::serve`]), that a link can be
/// spoken on ([`Advertiser::opened`]), and what was received ([`Advertiser::receive`]); after each, and when
/// [`Advertiser::due`] has come ([`Advertiser::tick`]), it has frames to send ([`Advertiser::transmit`]). Times are
/// since any moment that stays the same.
pub struct Advertiser {
    links: BTreeMap<IfName, Link>,
    /// The devices that can be spoken on, with their MACs, whether anything is said there or not.
    open: BTreeMap<IfName, MacAddr>,
    /// When which link has something to say: for each the earliest time that it has.
    timers: BTreeSet<(Duration, IfName)>,
    frames: Queue<Frame>,
    random: u64,
    counts: Counts,
}

struct Link {
    router: Router,
    /// The device's own MAC, as soon as there is a device.
    own: Option<MacAddr>,
    /// What was so, and is to be taken back.
    gone: Gone,
    /// When all of the link hear next.
    next: Duration,
    /// How many of the first ones are still to come.
    first: u8,
    /// When all heard last.
    last: Option<Duration>,
    /// Who asked, with which address, and when it is answered.
    asked: BTreeMap<MacAddr, (Ipv6Addr, Duration)>,
    timer: Option<Duration>,
}

#[derive(Default)]
struct Gone {
    prefixes: Vec<Prefix>,
    routes: BTreeSet<Ipv6Net>,
    dns: BTreeSet<Ipv6Addr>,
    search: BTreeSet<String>,
}

/// What was said, and what was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Advertisements to all of a link.
    pub announced: u64,
    /// Advertisements to one that asked.
    pub answered: u64,
}

impl Advertiser {
    /// One that says nothing yet. The seed is for when things are said, which nobody needs to foresee.
    pub fn new(seed: u64) -> Self {
        Self {
            links: BTreeMap::new(),
            open: BTreeMap::new(),
            timers: BTreeSet::new(),
            frames: Queue::default(),
            random: seed | 1,
            counts: Counts::default(),
        }
    }

    /// What all of a link are to hear from now on; with none, that there is no router any more.
    pub fn serve(&mut self, now: Duration, device: &IfName, router: Option<Router>) {
        let before = self.forget(device);
        match (before, router) {
            (Some(before), Some(router)) if before.router == router => self.put(device, before),
            (Some(mut before), Some(router)) => {
                let is_same = before.router.says_the_same(&router);
                let knows = |mac: &MacAddr| {
                    is_same && before.router.only.as_ref().is_some_and(|only| only.contains(mac))
                };
                // Who has just moved here sees nothing of it, and does not ask. It is told by itself, as all together may
                // have to wait, and with all, as what is for it alone may for a moment still be led to where it was.
                let told = router.only.iter().flatten().copied().filter(|mac| !knows(mac)).take(WAITING);
                let told: Vec<MacAddr> = told.collect();
                if !is_same || !told.is_empty() {
                    before.next = before.next.min(before.soonest(now));
                }
                before.asked.extend(told.into_iter().map(|mac| (mac, (ALL_NODES, now))));
                if !is_same {
                    before.gone.note(&before.router, &router);
                    before.first = FIRST;
                }
                before.router = router;
                self.put(device, before);
            }
            (None, Some(router)) => {
                let link = Link {
                    router,
                    own: self.open.get(device).copied(),
                    gone: Gone::default(),
                    next: now,
                    first: FIRST,
                    last: None,
                    asked: BTreeMap::new(),
                    timer: None,
                };
                self.put(device, link);
            }
            (Some(mut before), None) => {
                let address = before.router.address;
                let nothing = Router {
                    address,
                    default: false,
                    mtu: before.router.mtu,
                    prefixes: Vec::new(),
                    routes: Vec::new(),
                    dns: Vec::new(),
                    search: Vec::new(),
                    only: before.router.only.clone(),
                };
                before.gone.note(&before.router, &nothing);
                before.router = nothing;
                if let Some(own) = before.own {
                    self.announce(device, own, &before);
                }
            }
            (None, None) => {}
        }
        self.tick(now);
    }

    /// A device can be spoken on, with this MAC of its own.
    pub fn opened(&mut self, now: Duration, device: &IfName, own: MacAddr) {
        self.open.insert(device.clone(), own);
        if let Some(mut link) = self.forget(device) {
            link.own = Some(own);
            link.first = FIRST;
            link.next = link.soonest(now);
            self.put(device, link);
        }
        self.tick(now);
    }

    /// A device can no longer be spoken on.
    pub fn closed(&mut self, device: &IfName) {
        self.open.remove(device);
        if let Some(mut link) = self.forget(device) {
            link.own = None;
            link.asked.clear();
            self.put(device, link);
        }
    }

    /// A frame came in by a device.
    pub fn receive(&mut self, now: Duration, device: &IfName, frame: &[u8]) {
        let Some(solicitation) = parse_solicitation(frame) else { return };
        let delay = self.random(DELAY);
        if let Some(mut link) = self.forget(device) {
            if link.router.only.as_ref().is_some_and(|only| !only.contains(&solicitation.mac)) {
                return self.put(device, link);
            }
            let can_be_told = !solicitation.from.is_unspecified() && !solicitation.mac.is_multicast();
            if can_be_told && (link.asked.len() < WAITING || link.asked.contains_key(&solicitation.mac)) {
                // Who asks again does not wait longer.
                link.asked.entry(solicitation.mac).or_insert((solicitation.from, now + delay)).0 =
                    solicitation.from;
            } else {
                link.next = link.next.min(link.soonest(now + delay));
            }
            self.put(device, link);
        }
    }

    /// When something is to be said without being asked.
    pub fn due(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Says what is due.
    pub fn tick(&mut self, now: Duration) {
        while let Some((due, device)) = self.timers.first().cloned()
            && due <= now
        {
            let Some(mut link) = self.forget(&device) else { continue };
            let Some(own) = link.own else { continue };
            for (mac, (address, _)) in link.asked.extract_if(.., |_, (_, due)| *due <= now) {
                let advertisement = advertisement(&link.router, &link.gone);
                if let Some(bytes) = advertisement.frame(own, link.router.address, mac, address) {
                    self.counts.answered += 1;
                    self.frames.push(Frame { device: device.clone(), bytes });
                }
            }
            if link.next <= now {
                self.announce(&device, own, &link);
                link.first = link.first.saturating_sub(1);
                link.last = Some(now);
                let (least, most) = INTERVAL;
                let pause = if link.first > 0 {
                    PAUSE + self.random(FIRST_INTERVAL - PAUSE)
                } else {
                    link.gone = Gone::default();
                    Duration::from_secs(least) + self.random(Duration::from_secs(most - least))
                };
                link.next = now + pause;
            }
            self.put(&device, link);
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Frame> {
        self.frames.pop()
    }

    /// What was said since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn announce(&mut self, device: &IfName, own: MacAddr, link: &Link) {
        let advertisement = advertisement(&link.router, &link.gone);
        if let Some(bytes) =
            advertisement.frame(own, link.router.address, multicast_mac(ALL_NODES), ALL_NODES)
        {
            self.counts.announced += 1;
            self.frames.push(Frame { device: device.clone(), bytes });
        }
    }

    /// Takes a link out, with its timer.
    fn forget(&mut self, device: &IfName) -> Option<Link> {
        let mut link = self.links.remove(device)?;
        if let Some(timer) = link.timer.take() {
            self.timers.remove(&(timer, device.clone()));
        }
        Some(link)
    }

    /// Puts a link back, with a timer for the first that is due of it.
    fn put(&mut self, device: &IfName, mut link: Link) {
        if link.own.is_some() {
            let due = link.asked.values().map(|(_, due)| *due).chain([link.next]).min();
            link.timer = due;
            self.timers.extend(due.map(|due| (due, device.clone())));
        }
        self.links.insert(device.clone(), link);
    }

    /// A time below another one (xorshift64).
    fn random(&mut self, below: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let micros = u64::try_from(below.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.random % micros)
    }
}

impl Link {
    /// When all can hear of something that is so from a time on.
    fn soonest(&self, from: Duration) -> Duration {
        self.last.map_or(from, |last| from.max(last + PAUSE))
    }
}

impl Gone {
    /// What was said and is no longer so; what is so again is not gone.
    fn note(&mut self, before: &Router, after: &Router) {
        self.prefixes.extend(before.prefixes.iter().map(|prefix| Prefix {
            prefix: prefix.prefix,
            on_link: prefix.on_link,
            autonomous: prefix.autonomous,
            lifetime: 0,
        }));
        self.prefixes.retain(|gone| after.prefixes.iter().all(|prefix| prefix.prefix != gone.prefix));
        self.routes.extend(&before.routes);
        self.routes.retain(|gone| !after.routes.contains(gone));
        self.dns.extend(&before.dns);
        self.dns.retain(|gone| !after.dns.contains(gone));
        self.search.extend(before.search.iter().cloned());
        self.search.retain(|gone| !after.search.contains(gone));
    }
}

/// What is so comes before what is no longer.
fn advertisement(router: &Router, gone: &Gone) -> Advertisement {
    let lifetime = if router.only.is_some() { STRETCHED_LIFETIME } else { LIFETIME };
    let prefixes = router.prefixes.iter().map(|prefix| Prefix {
        prefix: prefix.prefix,
        on_link: prefix.on_link,
        autonomous: prefix.autonomous,
        lifetime: PREFIX_LIFETIME,
    });
    let routes = router.routes.iter().map(|route| (*route, u32::from(lifetime)));
    let is_there = router.default || !router.prefixes.is_empty() || !router.routes.is_empty();
    Advertisement {
        lifetime: if router.default { lifetime } else { 0 },
        managed: is_there,
        other: is_there,
        mtu: Some(router.mtu),
        prefixes: prefixes.chain(gone.prefixes.iter().copied()).collect(),
        routes: routes.chain(gone.routes.iter().map(|route| (*route, 0))).collect(),
        dns: vec![(router.dns.clone(), u32::from(lifetime)), (gone.dns.iter().copied().collect(), 0)],
        search: vec![
            (router.search.clone(), u32::from(lifetime)),
            (gone.search.iter().cloned().collect(), 0),
        ],
    }
}
