//! What the machines on one host's part of a vnet listen to, as their own reports say: IGMP (RFC 1112, 2236, 3376) and MLD
//! (RFC 2710, 3810), read as RFC 4541 asks of switches.
//!
//! A host asks its own machines, and only these, so that it knows whoever is in the segment to ask. Of what it is told it
//! remembers as long as three questions take. Whenever it cannot be sure it wants everything: at first, when a machine has
//! come, when a machine asks itself (a router of groups), and when there is more than is remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use viaduct_types::MacAddr;

use super::{
    checksum,
    layout::{Packet, Version, word},
};

/// So many groups are remembered of one host's machines.
pub const MOST_GROUPS: usize = 1024;
/// How often is asked.
const INTERVAL: Duration = Duration::from_secs(60);
/// In which time is to be answered: `RESPONSE` as the packets say it is in tenths of a second, and in milliseconds.
const RESPONSE: Duration = Duration::from_secs(1);
/// So long an answer holds: two of three questions may be lost.
const HOLDS: Duration = Duration::from_secs(3 * 60 + 5);
/// When somebody has come, it has been asked twice until then.
const IN_DOUBT: Duration = Duration::from_secs(5);
/// The second of these questions.
const AGAIN: Duration = Duration::from_secs(2);
/// When somebody leaves a group, others who are in it have said so until then.
const LEAVING: Duration = Duration::from_secs(4);
/// A machine that asks does so more often than that (RFC 3376, section 8.5: 255 s).
const ROUTER: Duration = Duration::from_secs(260);

const IGMP: u8 = 2;
const ICMP6: u8 = 58;

/// Whether a group's frames go to all, whoever has asked for them: broadcasts, what is not IP, 224.0.0.0/24 (RFC 4541, section
/// 2.1.2), and of IPv6 those with a low number, as ff02::1, and the groups of neighbour discovery. Several groups share
/// an address; then the rule of one holds for all.
pub fn is_for_all(group: MacAddr) -> bool {
    match group.0 {
        [0x01, 0x00, 0x5e, high, 0, _] => high & 0x7f == 0,
        [0x01, 0x00, 0x5e, ..] => false,
        [0x33, 0x33, 0, 0, 0, _] | [0x33, 0x33, 0xff, ..] => true,
        [0x33, 0x33, ..] => false,
        _ => true,
    }
}

/// See the module. Times are since any moment that is the same for all calls.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// Until when each group holds.
    groups: BTreeMap<MacAddr, Duration>,
    doubt: Duration,
    router: Duration,
    /// When is to be asked.
    questions: BTreeSet<Duration>,
}

impl Listeners {
    /// Nobody has been asked yet.
    pub fn new(now: Duration) -> Self {
        let mut listeners = Self {
            groups: BTreeMap::new(),
            doubt: Duration::ZERO,
            router: Duration::ZERO,
            questions: BTreeSet::new(),
        };
        listeners.arrived(now);
        listeners
    }

    /// Somebody may be there who has not said to what it listens.
    pub fn arrived(&mut self, now: Duration) {
        self.doubt = now + IN_DOUBT;
        self.questions.extend([now, now + AGAIN]);
    }

    /// Whether it is time to ask; ends what is over.
    pub fn handle_timeout(&mut self, now: Duration) -> bool {
        self.groups.retain(|_, until| *until > now);
        let due = self.questions.first().is_some_and(|due| *due <= now);
        if due {
            self.questions.retain(|due| *due > now);
            if self.questions.is_empty() {
                self.questions.insert(now + INTERVAL);
            }
        }
        due
    }

    /// The groups whose frames are wanted; none when all are.
    pub fn wanted(&self, now: Duration) -> Option<BTreeSet<MacAddr>> {
        (self.doubt <= now && self.router <= now).then(|| self.groups.keys().copied().collect())
    }

    /// A frame of one of the machines.
    pub fn hear(&mut self, now: Duration, frame: &[u8]) {
        let mut said = Vec::new();
        match read(frame, &mut said) {
            Some(Heard::Question) => self.router = now + ROUTER,
            Some(Heard::Reports) => said.into_iter().for_each(|(group, joins)| self.told(now, group, joins)),
            None => {}
        }
    }

    fn told(&mut self, now: Duration, group: MacAddr, joins: bool) {
        if is_for_all(group) {
            return;
        }
        if joins {
            if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&group) {
                self.doubt = self.doubt.max(now + HOLDS);
                return;
            }
            self.groups.insert(group, now + HOLDS);
        } else if let Some(until) = self.groups.get_mut(&group)
            && *until > now + LEAVING
        {
            *until = now + LEAVING;
            // Those who are still in it answer.
            self.questions.extend([now, now + AGAIN]);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Question,
    Reports,
}

/// What a frame says: groups, and whether somebody is in them from now on, or may be no longer.
fn read(frame: &[u8], said: &mut Vec<(MacAddr, bool)>) -> Option<Heard> {
    let packet = Packet::of(frame)?;
    if packet.is_fragment {
        return None;
    }
    let body = frame.get(packet.transport..packet.end)?;
    match (packet.version, packet.next) {
        (Version::V4, IGMP) => igmp(frame.get(packet.network + 12..)?.first_chunk()?, body, said),
        // With a hop-by-hop header before it, which has a router alert (RFC 3810, section 5).
        (Version::V6, 0) if *body.first()? == ICMP6 => {
            mld(body.get(8 + usize::from(*body.get(1)?) * 8..)?, said)
        }
        (Version::V4 | Version::V6, _) => None,
    }
}

fn igmp(source: &[u8; 4], message: &[u8], said: &mut Vec<(MacAddr, bool)>) -> Option<Heard> {
    let group = |at: usize| Some(ipv4_group(*message.get(at..)?.first_chunk()?));
    match *message.first()? {
        // From nowhere ask those who are no routers (RFC 4541, section 2.1.1).
        0x11 if *source != [0; 4] => return Some(Heard::Question),
        0x12 | 0x16 => said.push((group(4)??, true)),
        0x17 => said.push((group(4)??, false)),
        0x22 => records(message, 4, group, said)?,
        _ => return None,
    }
    Some(Heard::Reports)
}

fn mld(message: &[u8], said: &mut Vec<(MacAddr, bool)>) -> Option<Heard> {
    let group = |at: usize| Some(ipv6_group(*message.get(at..)?.first_chunk()?));
    match *message.first()? {
        130 => return Some(Heard::Question),
        131 => said.push((group(8)??, true)),
        132 => said.push((group(8)??, false)),
        143 => records(message, 16, group, said)?,
        _ => return None,
    }
    Some(Heard::Reports)
}

/// What the records of a report say, with groups and sources of so many bytes (RFC 3376, section 4.2; RFC 3810, section
/// 5.2).
fn records(
    message: &[u8],
    address: usize,
    group: impl Fn(usize) -> Option<Option<MacAddr>>,
    said: &mut Vec<(MacAddr, bool)>,
) -> Option<()> {
    let mut at = 8;
    for _ in 0..word(message, 6)? {
        let (kind, auxiliary) = (*message.get(at)?, usize::from(*message.get(at + 1)?));
        let sources = word(message, at + 2)?;
        if let (Some(Some(group)), Some(joins)) = (group(at + 4), joins(kind, sources)) {
            said.push((group, joins));
        }
        at += 4 + address + usize::from(sources) * address + auxiliary * 4;
    }
    Some(())
}

/// What a record of this kind says (RFC 3376, section 4.2.12; RFC 3810, section 5.2.12).
fn joins(kind: u8, sources: u16) -> Option<bool> {
    match (kind, sources) {
        (2 | 4 | 5, _) | (1 | 3, 1..) => Some(true),
        (3, 0) | (6, _) => Some(false),
        _ => None,
    }
}

/// RFC 1112, section 6.4.
fn ipv4_group(address: [u8; 4]) -> Option<MacAddr> {
    let [high, a, b, c] = address;
    (high >> 4 == 14).then_some(MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]))
}

/// RFC 2464, section 7.
fn ipv6_group(address: [u8; 16]) -> Option<MacAddr> {
    let [high, .., a, b, c, d] = address;
    (high == 0xff).then_some(MacAddr([0x33, 0x33, a, b, c, d]))
}

/// The questions to all machines: to what do you listen? Their senders' addresses are such that nobody who asks as well is
/// silent because of them.
pub fn questions() -> [Vec<u8>; 2] {
    const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
    let tenths = u8::try_from(RESPONSE.as_millis() / 100).unwrap_or(u8::MAX);
    let seconds = u8::try_from(INTERVAL.as_secs()).unwrap_or(u8::MAX);
    // RFC 3376, section 4.1: from 0.0.0.0 to 224.0.0.1, with a router alert (RFC 2113).
    let mut igmp = vec![0x11, tenths, 0, 0, 0, 0, 0, 0, 2, seconds, 0, 0];
    checksum::put(&mut igmp, 2, 0);
    let mut header = vec![0x46, 0xc0, 0, 36, 0, 0, 0x40, 0, 1, IGMP, 0, 0];
    header.extend([0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0]);
    checksum::put(&mut header, 10, 0);
    let v4 = [&[0x01, 0x00, 0x5e, 0, 0, 1][..], &SENDER, &[0x08, 0x00], &header, &igmp].concat();

    // RFC 3810, section 5.1: to ff02::1, from a link-local address; the highest of those who ask falls silent.
    let from = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let millis = u16::try_from(RESPONSE.as_millis()).unwrap_or(u16::MAX).to_be_bytes();
    let mut mld = vec![130, 0, 0, 0, millis[0], millis[1], 0, 0];
    mld.extend([0; 16]);
    mld.extend([2, seconds, 0, 0]);
    let before = checksum::pseudo_header(&[from, to].concat(), ICMP6, mld.len());
    checksum::put(&mut mld, 2, before);
    let mut header = vec![0x60, 0, 0, 0, 0, 36, 0, 1];
    header.extend(from);
    header.extend(to);
    header.extend([ICMP6, 0, 5, 2, 0, 0, 1, 0]);
    let v6 = [&[0x33, 0x33, 0, 0, 0, 1][..], &SENDER, &[0x86, 0xdd], &header, &mld].concat();
    [v4, v6]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: [u8; 4] = [239, 1, 2, 3];
    const MAC: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);
    const GROUP6: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
    const MAC6: MacAddr = MacAddr([0x33, 0x33, 0, 1, 2, 3]);

    fn v4(source: [u8; 4], message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(24 + message.len()).unwrap();
        let mut frame =
            [&MAC.0[..], &[2, 0, 0, 0, 0, 1, 8, 0, 0x46, 0, 0, length, 0, 0, 0, 0, 1, 2, 0, 0]].concat();
        frame.extend(source);
        frame.extend([224, 0, 0, 22, 0x94, 4, 0, 0]);
        frame.extend(message);
        frame
    }

    fn v6(message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(8 + message.len()).unwrap();
        let mut frame =
            [&MAC6.0[..], &[2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 0, 1]].concat();
        frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend(GROUP6);
        frame.extend([ICMP6, 0, 5, 2, 0, 0, 1, 0]);
        frame.extend(message);
        frame
    }

    /// A record of IGMPv3 and MLDv2.
    fn record(kind: u8, group: &[u8], sources: u8) -> Vec<u8> {
        let mut record = [&[kind, 0, 0, sources][..], group].concat();
        record.extend(vec![7; usize::from(sources) * group.len()]);
        record
    }

    fn report(kind: u8, records: &[Vec<u8>]) -> Vec<u8> {
        [vec![kind, 0, 0, 0, 0, 0, 0, u8::try_from(records.len()).unwrap()], records.concat()].concat()
    }

    fn settled() -> (Listeners, Duration) {
        let mut listeners = Listeners::new(Duration::ZERO);
        let now = Duration::from_secs(10);
        listeners.handle_timeout(now);
        assert_eq!(listeners.wanted(now), Some(BTreeSet::new()));
        (listeners, now)
    }

    fn said(frame: &[u8]) -> Vec<(MacAddr, bool)> {
        let mut said = Vec::new();
        read(frame, &mut said);
        said
    }

    #[test]
    fn reports_of_all_versions_are_read() {
        let old = |kind| [&[kind, 0, 0, 0][..], &GROUP].concat();
        let old6 = |kind| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &GROUP6].concat();
        for kind in [0x12, 0x16] {
            assert_eq!(said(&v4([10, 0, 0, 1], &old(kind))), [(MAC, true)]);
        }
        assert_eq!(said(&v4([10, 0, 0, 1], &old(0x17))), [(MAC, false)]);
        assert_eq!(said(&v6(&old6(131))), [(MAC6, true)]);
        assert_eq!(said(&v6(&old6(132))), [(MAC6, false)]);
        for (kind, sources, expected) in [
            (1, 0, None),
            (1, 2, Some(true)),
            (2, 0, Some(true)),
            (3, 0, Some(false)),
            (3, 1, Some(true)),
            (4, 0, Some(true)),
            (5, 1, Some(true)),
            (6, 1, Some(false)),
            (7, 0, None),
        ] {
            // Something before and after it, so that lengths count.
            let other = |group: &[u8]| record(4, group, 3);
            let records = [other(&[239, 9, 9, 9]), record(kind, &GROUP, sources), other(&[239, 8, 8, 8])];
            let heard = said(&v4([0; 4], &report(0x22, &records)));
            assert_eq!(heard.iter().find(|(group, _)| *group == MAC).map(|(_, joins)| *joins), expected);
            assert_eq!(heard.len(), 2 + usize::from(expected.is_some()));
            let heard = said(&v6(&report(143, &[record(kind, &GROUP6, sources), record(4, &GROUP6, 0)])));
            assert_eq!(heard.len(), 1 + usize::from(expected.is_some()));
        }
    }

    #[test]
    fn what_is_wanted_is_what_was_asked_for_lately() {
        let (mut listeners, now) = settled();
        listeners.hear(now, &v4([10, 0, 0, 1], &report(0x22, &[record(4, &GROUP, 0)])));
        assert_eq!(listeners.wanted(now), Some([MAC].into()));
        listeners.handle_timeout(now + HOLDS - RESPONSE);
        assert_eq!(listeners.wanted(now + HOLDS - RESPONSE), Some([MAC].into()));
        listeners.handle_timeout(now + HOLDS);
        assert_eq!(listeners.wanted(now + HOLDS), Some(BTreeSet::new()));
    }

    #[test]
    fn others_stay_when_one_leaves() {
        let (mut listeners, now) = settled();
        let join = v4([10, 0, 0, 1], &report(0x22, &[record(4, &GROUP, 0)]));
        let leave = v4([10, 0, 0, 2], &report(0x22, &[record(3, &GROUP, 0)]));
        listeners.hear(now, &join);
        listeners.hear(now, &leave);
        assert!(listeners.handle_timeout(now), "the others are asked");
        assert_eq!(listeners.wanted(now), Some([MAC].into()));
        listeners.hear(now + RESPONSE, &join);
        listeners.handle_timeout(now + LEAVING);
        assert_eq!(listeners.wanted(now + LEAVING), Some([MAC].into()));
        listeners.hear(now + LEAVING, &leave);
        listeners.handle_timeout(now + LEAVING * 2);
        assert_eq!(listeners.wanted(now + LEAVING * 2), Some(BTreeSet::new()));
    }

    #[test]
    fn in_doubt_everything_is_wanted() {
        let (mut listeners, now) = settled();
        listeners.arrived(now);
        assert_eq!(listeners.wanted(now), None, "somebody has come");
        let mut later = now + IN_DOUBT;
        assert!(listeners.wanted(later).is_some());
        let mut query = vec![0x11, 100, 0, 0, 0, 0, 0, 0];
        listeners.hear(later, &v4([0; 4], &query));
        assert!(listeners.wanted(later).is_some(), "those who ask from nowhere are no routers");
        listeners.hear(later, &v4([10, 0, 0, 1], &query));
        assert_eq!(listeners.wanted(later), None, "a router is here");
        later += ROUTER;
        query = [vec![130], vec![0; 23]].concat();
        listeners.hear(later, &v6(&query));
        assert_eq!(listeners.wanted(later), None, "also for IPv6");
        later += ROUTER;
        for group in 0..=MOST_GROUPS {
            let [.., high, low] = group.to_be_bytes();
            listeners.hear(later, &v4([0; 4], &report(0x22, &[record(4, &[239, 1, high, low], 0)])));
        }
        assert!(listeners.wanted(later).is_none(), "more than is remembered");
        assert!(listeners.groups.len() <= MOST_GROUPS);
    }

    #[test]
    fn it_is_asked_now_and_then() {
        let mut listeners = Listeners::new(Duration::ZERO);
        let asked: Vec<u64> =
            (0..200).filter(|second| listeners.handle_timeout(Duration::from_secs(*second))).collect();
        assert_eq!(asked, [0, 2, 62, 122, 182]);
    }

    #[test]
    fn what_all_need_goes_to_all() {
        for (mac, all) in [
            ("ff:ff:ff:ff:ff:ff", true),
            ("01:80:c2:00:00:00", true),
            ("01:00:5e:00:00:fb", true),
            ("01:00:5e:80:00:01", true),
            ("01:00:5e:00:01:01", false),
            ("01:00:5e:01:02:03", false),
            ("33:33:00:00:00:01", true),
            ("33:33:ff:12:34:56", true),
            ("33:33:00:01:00:02", false),
        ] {
            assert_eq!(is_for_all(mac.parse().unwrap()), all, "{mac}");
        }
    }

    #[test]
    fn its_own_questions_are_whole() {
        let [v4, v6] = questions();
        let ip = Packet::of(&v4).unwrap();
        assert_eq!((ip.next, ip.end), (IGMP, v4.len()));
        assert_eq!(checksum::complement(checksum::sum(&v4[14..38])), 0);
        assert_eq!(checksum::complement(checksum::sum(&v4[38..])), 0);
        let ip = Packet::of(&v6).unwrap();
        assert_eq!((ip.next, ip.end), (0, v6.len()));
        let sum = checksum::pseudo_header(&v6[22..54], ICMP6, 28) + checksum::sum(&v6[62..]);
        assert_eq!(checksum::complement(sum), 0);
        assert_eq!(read(&v4, &mut Vec::new()), None, "it is no router's");
        assert_eq!(read(&v6, &mut Vec::new()), Some(Heard::Question));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(mut frame: Vec<u8>, kind in 0..3usize, message: Vec<u8>) {
            let mut listeners = Listeners::new(Duration::ZERO);
            match kind {
                0 => {}
                1 => frame = v4([1; 4], &message[..message.len().min(200)]),
                _ => frame = v6(&message[..message.len().min(200)]),
            }
            listeners.hear(Duration::from_secs(1), &frame);
            prop_assert!(listeners.groups.len() <= MOST_GROUPS);
            for cut in 0..frame.len() {
                listeners.hear(Duration::from_secs(1), &frame[..cut]);
            }
        }
    }
}
