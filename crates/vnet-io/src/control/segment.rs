//! Who else bridges the same segment into a vnet: one of them keeps out.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, IfName, MacAddr, VnetId};
use viaduct_vnet_proto::{
    control::Message,
    data::{Doubt, Segment},
};

use super::{
    discovery::time_of_day,
    engine::{Engine, Vnet},
    fdb, memory,
};

/// How often each host says that it is there.
const INTERVAL: Duration = Duration::from_secs(1);
/// At the most, however often others say so, or come into the vnet.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Of whom nothing has been heard for so long, it is not there any more.
const SILENCE: Duration = Duration::from_secs(5);
/// Who has a new port listens for so long before anything goes through it: whoever bridges there has said so by then. Until then the
/// port is held, and the host's own NICs are in the vnet.
const LISTEN: Duration = Duration::from_secs(2);
/// And then says for so long that it bridges, before anything does.
const SAY: Duration = Duration::from_millis(250);
/// Who was away for no longer need not: the others wait for longer before they take over.
pub(super) const BRIEFLY: Duration = Duration::from_secs(2);
/// Who has no connection to any host of the vnet for so long bridges nothing into it, and leaves it to others.
const ALONE: Duration = Duration::from_secs(2);
/// How often those who are connected are told what this host's number is: well before they forget the last
/// ([`TOLD`](viaduct_vnet_proto::data::TOLD)).
const TELL: Duration = Duration::from_secs(10);
/// Who has come back into a vnet has been told by then which machines are in it.
const KNOWN: Duration = Duration::from_secs(1);
/// So many machines are told of; the others are known when they speak.
const MOST_ANNOUNCED: usize = 1024;
/// The group of devices of nobody's.
const HELD: u32 = 0;
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
    /// When it is said on the segment which machines are reached by this host.
    announces: Option<Duration>,
    /// Why the port is not held, or not opened.
    trouble: Option<String>,
    /// Since when this host has had no connection to any other of the vnet.
    alone: Option<Duration>,
}

/// How far a host is that has a new port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    /// It listens until then.
    Listening(Duration),
    /// It says that it is there, until then: who is to keep out for it does so before anything goes through.
    Saying(Duration),
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
        self.beside.is_some()
    }

    /// Whether this host reaches no other of the vnet.
    fn is_cut_off(&self, now: Duration) -> bool {
        self.alone.is_some_and(|since| now.saturating_sub(since) > ALONE)
    }

    /// It has a connection to another host of the vnet, or to none.
    fn has_company(&mut self, now: Duration, is_alone: bool) {
        if is_alone {
            self.alone.get_or_insert(now);
            return;
        }
        // Whoever bridges may have been cut off like this host, and has said nothing meanwhile.
        if self.is_cut_off(now)
            && let Some((_, heard)) = &mut self.beside
        {
            *heard = now;
        }
        self.alone = None;
    }

    /// Whether nobody else is heard any more who would be kept out for, and this host has something to come back to.
    fn is_free(&self, now: Duration) -> bool {
        !self.is_cut_off(now) && self.beside.is_some_and(|(_, heard)| now.saturating_sub(heard) > SILENCE)
    }

    /// Whether this host keeps out for another one that bridges: for the lesser key, for whom it has kept out for already, and for
    /// anybody while it reaches no other host itself.
    fn yields(&self, now: Duration, own: &HostKey, other: &HostKey) -> bool {
        own > other || self.is_cut_off(now) || self.beside.is_some_and(|(beside, _)| beside == *other)
    }

    /// Whether frames go through the port: into the vnet, or to this host's own machines alone where it keeps out.
    fn is_open(&self) -> bool {
        self.silent.is_none() && self.absent != Some(Absent::Ever)
    }

    /// Whoever was away for longer than briefly comes back as somebody new.
    fn has_been_away(&mut self, now: Duration) {
        if matches!(self.absent, Some(Absent::Since(then)) if now.saturating_sub(then) > BRIEFLY) {
            self.absent = Some(Absent::Ever);
        }
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
        self.has_been_away(now);
        let is_new = self.absent.take() == Some(Absent::Ever);
        if is_new {
            self.silent = Some(Silent::Listening(now + LISTEN));
        }
        is_new
    }

    /// Goes on with what is new.
    fn has_listened(&mut self, now: Duration) {
        match self.silent {
            Some(Silent::Listening(until)) if now >= until => {
                self.said = None;
                self.silent = Some(Silent::Saying(now + SAY));
            }
            Some(Silent::Saying(until)) if now >= until => self.silent = None,
            // Once more: one may be lost, and who hears it busy.
            Some(Silent::Saying(_)) => self.said = None,
            Some(Silent::Listening(_)) | None => {}
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

/// What QEMU says of a machine that has arrived (RFC 903): it says nothing but where the MAC is.
fn announcement(mac: MacAddr) -> Vec<u8> {
    const HEAD: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let frame = [&[0xff; 6][..], &mac.0, &HEAD, &mac.0, &[0; 4], &mac.0, &[0; 4]].concat();
    // As short as a frame may be.
    [frame, vec![0; 18]].concat()
}

impl Engine {
    /// Says so where it is time, and comes back where nobody has said so for a while.
    pub(super) fn tick_segments(&mut self) {
        let now = self.now();
        let mut is_free = false;
        for (id, vnet) in &mut self.vnets {
            let bridging = &mut vnet.bridging;
            let orders = self.orders.vnets.get(id).filter(|orders| !orders.peers.is_empty());
            let key = |name| self.orders.peers.get(name).map(|peer| peer.key);
            let is_connected = |key| self.peers.get(&key).is_some_and(|peer| peer.session.is_some());
            let is_alone =
                orders.is_some_and(|orders| !orders.peers.iter().filter_map(key).any(is_connected));
            bridging.has_company(now, is_alone);
            bridging.looks = 0;
            if bridging.is_free(now) {
                info!("vnet {}: nobody else bridges its segment any more", vnet.name);
                bridging.beside = None;
                bridging.announces = Some(now + KNOWN);
                is_free = true;
            }
            bridging.has_listened(now);
            bridging.has_been_away(now);
            bridging.other.take_if(|(_, heard, _)| now.saturating_sub(*heard) > SILENCE);
        }
        if is_free {
            self.configure();
        }
        self.hold_ports();
        self.announce();
        self.tell_number();
        let is_due = |vnet: &Vnet| vnet.bridging.said.is_none_or(|said| now.saturating_sub(said) >= INTERVAL);
        let due: Vec<VnetId> =
            self.vnets.iter().filter(|(_, vnet)| is_due(vnet)).map(|(id, _)| *id).collect();
        if due.is_empty() {
            return;
        }
        due.into_iter().for_each(|id| self.say_segment(id));
        let mut bridged = BTreeSet::new();
        let is_bridged = |vnet: &Vnet| vnet.carried && !vnet.bridging.is_out() && vnet.bridging.is_open();
        for (id, _) in self.vnets.iter().filter(|(_, vnet)| is_bridged(vnet)) {
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
        for (id, vnet) in &mut self.vnets {
            let orders = self.orders.vnets.get(id).filter(|orders| orders.opens.is_some());
            if orders.is_some_and(|orders| orders.port.as_ref() == Some(&device))
                && vnet.bridging.port_changed(now, there)
            {
                info!("vnet {}: it is listened at {device} who bridges there", vnet.name);
            }
        }
        if there {
            self.bridged.insert(device);
        } else {
            self.bridged.remove(&device);
        }
        self.hold_ports();
    }

    /// Sees to it that the filter holds those ports through which nothing goes yet, and no others. Whoever makes a device anew, or
    /// changes its group, is noticed by that, too.
    pub(super) fn hold_ports(&mut self) {
        let now = self.now();
        for (id, vnet) in &mut self.vnets {
            let Some(orders) = self.orders.vnets.get(id) else { continue };
            let (Some(port), Some(opens)) = (&orders.port, orders.opens) else { continue };
            let Some(index) = fdb::index(port) else { continue };
            let is_open = vnet.bridging.is_open();
            if fdb::group(index).is_none_or(|group| (group == opens) == is_open) {
                continue;
            }
            if is_open {
                // Whoever gives it back takes it out of the bridge first.
                if fdb::bridge_of(index).is_none() {
                    continue;
                }
                // Nothing goes through before the workers have left the vnet, if they do.
                let _ = self.handle.settle();
            }
            let trouble = match fdb::set_group(index, if is_open { opens } else { HELD }) {
                Ok(()) => {
                    vnet.bridging.announces = is_open.then_some(now);
                    debug!(
                        "vnet {}: {}",
                        vnet.name,
                        if is_open { "frames go by its port" } else { "its port is held" }
                    );
                    None
                }
                Err(error) => Some(format!("its port {port} cannot be put into another group: {error}")),
            };
            if let Some(trouble) =
                trouble.as_ref().filter(|trouble| vnet.bridging.trouble.as_ref() != Some(*trouble))
            {
                warn!("vnet {}: {trouble}", vnet.name);
            }
            vnet.bridging.trouble = trouble;
        }
    }

    /// Says on segments that this host bridges from now on which machines it leads to: switches send what is for those that say
    /// nothing to the host that did before.
    fn announce(&mut self) {
        let now = self.now();
        for (id, vnet) in &mut self.vnets {
            let is_due = vnet.bridging.announces.is_some_and(|due| now >= due);
            if !is_due || self.orders.vnets.get(id).is_none_or(|orders| orders.opens.is_none()) {
                continue;
            }
            vnet.bridging.announces = None;
            if vnet.bridging.is_out() || !vnet.bridging.is_open() {
                continue;
            }
            for (mac, _) in vnet.tables.remote_macs().take(MOST_ANNOUNCED) {
                let _ = self.handle.deliver(*id, announcement(mac));
            }
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

    /// Says on the vnet's own segment that this host bridges it, if it has not just said so.
    pub(super) fn say_segment(&mut self, id: VnetId) {
        let now = self.now();
        if !self.orders.vnets.get(&id).is_some_and(|orders| orders.learning) {
            return;
        }
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.hears()) else {
            return;
        };
        // Who keeps out says nothing, nor who is cut off: it bridges nothing.
        if vnet.bridging.is_cut_off(now)
            || vnet.bridging.beside.is_some()
            || matches!(vnet.bridging.silent, Some(Silent::Listening(_)))
        {
            return;
        }
        if vnet.bridging.said.is_some_and(|said| now.saturating_sub(said) <= AT_ONCE) {
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
        if !vnet.bridging.yields(now, &own, &other) {
            // It keeps out as soon as it hears of this host.
            return self.say_segment(id);
        }
        let before = vnet.bridging.beside.replace((other, now));
        // It is known: what is behind the port is reached by it, and the vnet by the other host.
        vnet.bridging.silent = None;
        if before.is_none() {
            let name = self.peers.get(&other).map_or("?", |peer| peer.name.as_str());
            warn!(
                "vnet {}: peer {name} bridges the same segment into it, so this host does not: frames would go round",
                vnet.name
            );
            // Who is there is reached by the other host. When this one comes back, it claims those whom it hears from then on.
            vnet.learned.clear();
            self.configure();
        }
    }

    /// A peer says by its connection at which number it is.
    pub(super) fn heard_number(&mut self, host: HostKey, number: u64) {
        debug!("a peer's number on segments is {number}");
        self.numbers.tell(self.now(), host, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_announcement_is_a_whole_frame_of_the_machine() {
        let mac = MacAddr([2, 0x97, 0, 0, 0, 3]);
        let frame = announcement(mac);
        assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (60, &[0xff; 6][..], &mac.0[..]));
        assert_eq!(
            (&frame[12..14], &frame[20..22], &frame[22..28]),
            (&[0x80, 0x35][..], &[0, 3][..], &mac.0[..])
        );
        assert_eq!(frame[32..38], mac.0);
    }

    /// Ticks from the one time to the other; when the port was opened.
    fn opens(bridging: &mut Bridging, times: std::ops::Range<u64>) -> Option<u64> {
        times.step_by(250).find(|time| {
            bridging.has_listened(at(*time));
            bridging.has_been_away(at(*time));
            bridging.is_open()
        })
    }

    #[test]
    fn who_is_cut_off_leaves_it_to_others_and_waits_for_them_afterwards() {
        let (lesser, greater) = (HostKey([1; 32]), HostKey([2; 32]));
        let mut bridging = Bridging::default();
        bridging.has_company(at(0), true);
        assert!(!bridging.is_cut_off(at(2_000)) && !bridging.yields(at(2_000), &lesser, &greater));
        bridging.has_company(at(2_250), true);
        assert!(bridging.is_cut_off(at(2_250)) && bridging.yields(at(2_250), &lesser, &greater));
        bridging.beside = Some((greater, at(3_000)));
        // Nobody is missed by who has nothing to come back to, and whoever it may be has time to say so afterwards.
        assert!(!bridging.is_free(at(60_000)));
        bridging.has_company(at(60_000), false);
        assert!(!bridging.is_free(at(65_000)) && bridging.is_free(at(65_001)));
        assert!(bridging.yields(at(60_000), &lesser, &greater), "it keeps out for whom it has kept out for");
        assert!(!bridging.yields(at(60_000), &lesser, &HostKey([3; 32])));
        assert!(bridging.yields(at(60_000), &greater, &lesser));
    }

    #[test]
    fn a_new_port_is_held_until_its_host_has_listened_and_said_so() {
        let mut bridging = Bridging::default();
        bridging.has_new_port(at(0), true);
        assert!(!bridging.is_open() && !bridging.is_out(), "its own guests stay in the vnet");
        assert_eq!(opens(&mut bridging, 0..10_000), Some(2_250));
    }

    #[test]
    fn what_is_not_there_yet_is_held_and_listened_to_when_it_comes() {
        let mut bridging = Bridging::default();
        bridging.has_new_port(at(0), false);
        assert_eq!(opens(&mut bridging, 0..60_000), None);
        assert!(bridging.port_changed(at(60_000), true));
        assert_eq!(opens(&mut bridging, 60_000..70_000), Some(62_250));
    }

    #[test]
    fn who_was_away_for_long_is_held_before_it_comes_back() {
        let mut bridging = Bridging::default();
        assert!(!bridging.port_changed(at(0), false));
        assert!(bridging.is_open() && !bridging.port_changed(at(2_000), true), "it was away briefly");
        assert!(bridging.is_open());
        assert!(!bridging.port_changed(at(3_000), false));
        opens(&mut bridging, 3_000..5_251);
        bridging.has_been_away(at(5_001));
        assert!(!bridging.is_open());
        assert!(bridging.port_changed(at(9_000), true));
        assert_eq!(opens(&mut bridging, 9_000..20_000), Some(11_250));
        // Nor where nobody has looked meanwhile.
        assert!(!bridging.port_changed(at(20_000), false));
        assert!(bridging.port_changed(at(22_001), true) && !bridging.is_open());
    }
}
