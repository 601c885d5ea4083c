//! Who else bridges the same segment into a vnet: one of them keeps out.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, IfName, VnetId};
use viaduct_vnet_proto::{
    control::Message,
    data::{Doubt, Segment},
};

use super::{
    discovery::time_of_day,
    engine::{Engine, Vnet},
    memory,
};

/// How often each host says that it is there.
const INTERVAL: Duration = Duration::from_secs(1);
/// At the most, however often others say so.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Of whom nothing has been heard for so long, it is not there any more.
const SILENCE: Duration = Duration::from_secs(5);
/// Who has a new port listens for so long before anything goes through it: whoever bridges there has said so by then.
const LISTEN: Duration = Duration::from_secs(2);
/// Who was away for no longer need not: the others wait for longer before they take over.
pub(super) const BRIEFLY: Duration = Duration::from_secs(2);
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
    /// Whether nothing goes through the port yet.
    silent: Option<Silent>,
    /// Whether there is nothing at the port, and since when.
    absent: Option<Absent>,
}

/// How far a host is that has a new port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    /// It listens until then.
    Listening(Duration),
    /// It says that it is there: who is to keep out for it does so before anything goes through.
    Saying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    Ever,
    Since(Duration),
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
        self.beside.is_some() || self.silent.is_some()
    }

    /// It has a port that it had not before, at which there may be something already.
    pub(super) fn has_new_port(&mut self, now: Duration, is_there: bool) {
        self.silent = Some(Silent::Listening(now + LISTEN));
        self.absent = if is_there { None } else { Some(Absent::Ever) };
    }

    /// There is something at the port, or nothing any more; says whether it is to be listened to first.
    fn port_changed(&mut self, now: Duration, there: bool) -> bool {
        if !there {
            self.absent.get_or_insert(Absent::Since(now));
            return false;
        }
        let is_new = match self.absent.take() {
            None => false,
            Some(Absent::Ever) => true,
            Some(Absent::Since(then)) => now.saturating_sub(then) > BRIEFLY,
        };
        if is_new {
            self.silent = Some(Silent::Listening(now + LISTEN));
        }
        is_new
    }

    /// Goes on with what is new; says whether it is silent no longer.
    fn has_listened(&mut self, now: Duration) -> bool {
        match self.silent {
            Some(Silent::Listening(until)) if now >= until => {
                self.said = None;
                self.silent = Some(Silent::Saying);
                false
            }
            Some(Silent::Saying) => {
                self.silent = None;
                true
            }
            Some(Silent::Listening(_)) | None => false,
        }
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
        self.notice_of_other(name)
    }

    fn notice_of_other(&self, name: impl Fn(&HostKey) -> Option<String>) -> Option<String> {
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
            is_free |= bridging.has_listened(now);
            bridging.other.take_if(|(_, heard, _)| now.saturating_sub(*heard) > SILENCE);
        }
        if is_free {
            self.configure();
        }
        self.tell_number();
        let is_due = |vnet: &Vnet| vnet.bridging.said.is_none_or(|said| now.saturating_sub(said) >= INTERVAL);
        let due: Vec<VnetId> =
            self.vnets.iter().filter(|(_, vnet)| is_due(vnet)).map(|(id, _)| *id).collect();
        if due.is_empty() {
            return;
        }
        due.into_iter().for_each(|id| self.say_segment(id));
        let mut bridged = BTreeSet::new();
        for (id, _) in self.vnets.iter().filter(|(_, vnet)| vnet.carried && !vnet.bridging.is_out()) {
            if self.orders.vnets.get(id).is_some_and(|orders| orders.port.is_some()) {
                bridged.insert(*id);
            }
        }
        if !bridged.is_empty() {
            memory::write_bridged(&self.run_dir, &bridged);
        }
    }

    /// A device has become a port of a bridge, with something at its other end, or is none any more.
    pub(super) fn port_changed(&mut self, device: IfName, there: bool) {
        let now = self.now();
        let mut is_new = false;
        for (id, vnet) in &mut self.vnets {
            let orders = self.orders.vnets.get(id).filter(|orders| orders.learning);
            if orders.is_some_and(|orders| orders.port.as_ref() == Some(&device))
                && vnet.plain.is_none()
                && vnet.bridging.port_changed(now, there)
            {
                info!("vnet {}: it is listened at {device} who bridges there", vnet.name);
                is_new = true;
            }
        }
        if there {
            self.bridged.insert(device);
        } else {
            self.bridged.remove(&device);
        }
        if is_new {
            self.configure();
        }
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
        if vnet.bridging.beside.is_some() || matches!(vnet.bridging.silent, Some(Silent::Listening(_))) {
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
                let notice = vnet.bridging.notice_of_other(|key| self.orders.name_of(key));
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
