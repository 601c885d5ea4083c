//! Who else bridges the same segment into a vnet: one of them keeps out.

use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, VnetId};
use viaduct_vnet_proto::{
    control::Message,
    data::{Doubt, Segment},
};

use super::{
    discovery::time_of_day,
    engine::{Engine, Vnet},
};

/// How often each host says that it is there.
const INTERVAL: Duration = Duration::from_secs(1);
/// At the most, however often others say so.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Of whom nothing has been heard for so long, it is not there any more.
const SILENCE: Duration = Duration::from_secs(5);
/// How often those who are connected are told what this host's number is: well before they forget the last
/// ([`TOLD`](viaduct_vnet_proto::data::TOLD)).
const TELL: Duration = Duration::from_secs(10);
/// How many signatures are looked at between two ticks, on one vnet's segment: each costs some 50 microseconds.
const MOST_LOOKS: u32 = 16;

/// What is known of who else bridges the segment of a vnet.
#[derive(Debug, Default)]
pub(super) struct Bridging {
    /// Who does and is the one that goes on doing it, and when it last said so.
    beside: Option<(HostKey, Duration)>,
    /// Who does and has no say here, and why not.
    other: Option<(HostKey, Duration, Why)>,
    /// When this host has said so.
    said: Option<Duration>,
    looks: u32,
}

/// Why what a host says does not decide anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is no peer of the vnet here.
    NoPeer,
    /// It may have said so at any time.
    Clock,
}

impl Bridging {
    /// Whether this host keeps out of the vnet.
    pub(super) fn is_out(&self) -> bool {
        self.beside.is_some()
    }

    /// Nothing is bridged any more.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// What somebody has to know or do.
    pub(super) fn notice(&self, name: impl Fn(&HostKey) -> Option<String>) -> Option<String> {
        if let Some((beside, _)) = self.beside {
            let name = name(&beside).unwrap_or_else(|| beside.to_string());
            let notice = "bridges the same segment into it; as long as it does, this host does not";
            return Some(format!("{name} {notice}"));
        }
        let (other, _, why) = self.other?;
        let name = name(&other).unwrap_or_else(|| format!("the host with the key {other}"));
        Some(match why {
            Why::NoPeer => format!(
                "{name} bridges the same segment into it, and is none of its peers here: frames come twice, or go round; let one \
                 of the two do it, or list each among the other's `peers` of this vnet"
            ),
            Why::Clock => format!(
                "{name} says that it bridges the same segment into it, at another time than this host's clock has: set both \
                 clocks, for frames go round if it is so"
            ),
        })
    }
}

impl Engine {
    /// Says so where it is time, and comes back where nobody has said so for a while.
    pub(super) fn tick_segments(&mut self) {
        let now = self.now();
        let mut is_free = false;
        for vnet in self.vnets.values_mut() {
            let bridging = &mut vnet.bridging;
            bridging.looks = 0;
            if bridging.beside.is_some_and(|(_, heard)| now.saturating_sub(heard) > SILENCE) {
                info!("vnet {}: nobody else bridges its segment any more", vnet.name);
                bridging.beside = None;
                is_free = true;
            }
            bridging.other.take_if(|(_, heard, _)| now.saturating_sub(*heard) > SILENCE);
        }
        if is_free {
            self.configure();
        }
        self.tell_number();
        let is_due = |vnet: &Vnet| vnet.bridging.said.is_none_or(|said| now.saturating_sub(said) >= INTERVAL);
        let due: Vec<VnetId> =
            self.vnets.iter().filter(|(_, vnet)| is_due(vnet)).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.say_segment(id));
    }

    /// Says by the connections at which number this host is, where what it says on segments may be heard.
    fn tell_number(&mut self) {
        let now = self.now();
        if !self.orders.vnets.values().any(|orders| orders.learning) {
            return;
        }
        let mut bytes = Vec::new();
        for link in self.links.values_mut() {
            if link.told.is_none_or(|told| now.saturating_sub(told) >= TELL) {
                if bytes.is_empty() {
                    Message::Number { number: self.count.next(now) }.write(&mut bytes);
                }
                link.told = Some(now);
                link.send(bytes.clone());
            }
        }
    }

    /// Says on the vnet's own segment that this host bridges it.
    pub(super) fn say_segment(&mut self, id: VnetId) {
        let now = self.now();
        if !self.orders.vnets.get(&id).is_some_and(|orders| orders.learning) {
            return;
        }
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.carried && vnet.plain.is_none()) else {
            return;
        };
        // Who keeps out says nothing: it bridges nothing.
        if vnet.bridging.is_out() {
            return;
        }
        vnet.bridging.said = Some(now);
        let segment = Segment { host: self.identity.public(), number: self.count.next(now) };
        let _ = self.handle.deliver(id, segment.frame(&self.identity.sign(&segment.signed(id))));
    }

    /// Somebody says on the vnet's segment that it bridges it, too.
    pub(super) fn heard_segment(&mut self, id: VnetId, frame: &[u8]) {
        let (own, now) = (self.identity.public(), self.now());
        let Some((segment, signature)) = Segment::read(frame) else { return };
        let other = segment.host;
        let Some(orders) = self.orders.vnets.get(&id).filter(|orders| orders.learning && other != own) else {
            return;
        };
        let keys = || orders.peers.iter().filter_map(|name| Some(self.orders.peers.get(name)?.key));
        let is_peer = keys().any(|key| key == other);
        let checked = self.numbers.check(now, time_of_day(), id, &segment);
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        if checked == Err(Doubt::Old) || vnet.bridging.looks >= MOST_LOOKS {
            return;
        }
        vnet.bridging.looks += 1;
        let key = UnparsedPublicKey::new(&ED25519, other.0);
        if key.verify(&segment.signed(id), signature).is_err() {
            // It may be of another vnet, which goes on on the same segment.
            return;
        }
        if !is_peer || checked.is_err() {
            let why = if is_peer { Why::Clock } else { Why::NoPeer };
            if vnet.bridging.other.replace((other, now, why)).is_none_or(|(before, ..)| before != other) {
                let notice = vnet.bridging.notice(|key| self.orders.name_of(key));
                warn!("vnet {}: {}", vnet.name, notice.unwrap_or_default());
            }
            return;
        }
        self.numbers.accept(id, &segment);
        if own < other {
            // It keeps out as soon as it hears of this host.
            if vnet.bridging.said.is_none_or(|said| now.saturating_sub(said) > AT_ONCE) {
                self.say_segment(id);
            }
            return;
        }
        let before = vnet.bridging.beside.replace((other, now));
        if before.is_none() {
            let name = self.peers.get(&other).map_or("?", |peer| peer.name.as_str());
            warn!(
                "vnet {}: peer {name} bridges the same segment into it, so this host does not: frames would go round",
                vnet.name
            );
            self.configure();
        }
    }

    /// A peer says by its connection at which number it is.
    pub(super) fn heard_number(&mut self, host: HostKey, number: u64) {
        debug!("a peer's number on segments is {number}");
        self.numbers.tell(self.now(), host, number);
    }
}
