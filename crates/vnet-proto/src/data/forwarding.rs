//! Where frames go: decided by the control side, looked up by the workers.

use std::{collections::BTreeMap, sync::Arc};

use viaduct_types::MacAddr;

use super::{
    Addresses, MacTable, PeerId, Port,
    groups::is_for_all,
    interest::{Interest, interest},
    layout::{ETHERNET, TAG, is_tagged},
    segment::is_segment,
};

/// What happens to frames from this host's bridge whose source nobody claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalSource {
    /// Dropped and counted, and told to the control side: all NICs here are managed.
    #[default]
    Claimed,
    /// Carried, and told to the control side: machines that nobody manages are behind the bridge.
    Learned,
}

/// What happens to frames from this host's bridge for a unicast address that is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownDestination {
    /// Dropped and counted: whoever there is has claimed its addresses.
    #[default]
    Dropped,
    /// Sent to those peers that have machines nobody manages, see [`Forwarding::learning_peers`].
    Flooded,
}

/// What the workers know of one vnet. A whole value takes the place of the one before.
///
/// Cheap to clone: everything that grows is shared.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// Who has which address.
    pub macs: MacTable,
    /// Who gets broadcasts: each member once.
    pub flood: Arc<[PeerId]>,
    /// Who gets a group's frames (by its Ethernet address), those who want all groups' among them.
    pub groups: Arc<BTreeMap<MacAddr, Arc<[PeerId]>>>,
    /// Who gets the frames of groups that nobody has asked for: those who want all groups'. What [is for
    /// all](super::is_for_all) goes to `flood`.
    pub ungrouped: Arc<[PeerId]>,
    /// Addresses for which the control side answers ARP and neighbour solicitations of this host's guests: the
    /// question goes there and to nobody else.
    pub answered: Addresses,
    /// Peers with machines behind them that nobody manages: from them, and only from them, frames are taken whose source
    /// nobody claimed.
    pub learning_peers: Arc<[PeerId]>,
    /// NICs that are here and were at a peer until shortly: what it still got for them comes from it, whoever sent it.
    pub arrived: Arc<BTreeMap<MacAddr, PeerId>>,
    /// Whose frames from this host's bridge are taken.
    pub local_source: LocalSource,
    /// What of those whose destination is nowhere.
    pub unknown_destination: UnknownDestination,
    /// The longest IP packet that the ports of all hosts take, in bytes: what gets to one of them beyond that gets no further there.
    pub longest: u16,
}

impl Forwarding {
    /// A vnet that has nobody in it, for at most so many MAC addresses.
    pub fn new(most_macs: usize) -> Self {
        Self {
            macs: MacTable::new(most_macs),
            flood: Arc::default(),
            groups: Arc::default(),
            ungrouped: Arc::default(),
            answered: Addresses::default(),
            learning_peers: Arc::default(),
            arrived: Arc::default(),
            local_source: LocalSource::default(),
            unknown_destination: UnknownDestination::default(),
            longest: u16::MAX,
        }
    }

    /// The longest frame that the ports of all hosts take, of this one's kind: a tag is beside the packet.
    pub fn longest_frame(&self, frame: &[u8]) -> usize {
        usize::from(self.longest) + ETHERNET + if is_tagged(frame) { TAG } else { 0 }
    }
}

/// What is done with a frame from this host's bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromBridge<'a> {
    /// Where it goes.
    pub to: To<'a>,
    /// Whether, and why, the control side sees it.
    pub shown: Option<Interest>,
    /// Whether the control side is told that nobody claimed its source here.
    pub is_source_unknown: bool,
}

/// Where a frame from this host's bridge goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    /// To one peer.
    Peer(PeerId),
    /// To each of these.
    Peers(&'a [PeerId]),
    /// Nowhere: it is for somebody on the bridge, or for the control side only.
    Nobody,
    /// Nowhere, and this is counted.
    Dropped(DropReason),
}

/// Why a frame from this host's bridge is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Too short, or from a group.
    Malformed,
    /// From or to a muted port.
    Muted,
    /// Nobody here claimed the source.
    UnknownSource,
    /// The destination is nowhere.
    UnknownDestination,
}

/// What is done with a frame from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromPeer {
    /// It goes to this host's bridge.
    Deliver,
    /// It goes on to where the guest went.
    Forward(PeerId),
    /// The peer may not send with this source.
    ForeignSource,
    /// The destination is not here, or it is silent.
    NotHere,
    /// Too short, or from a group.
    Malformed,
}

impl Forwarding {
    /// Decides for a frame from this host's bridge.
    pub fn from_bridge(&self, frame: &[u8]) -> FromBridge<'_> {
        let dropped = |reason| FromBridge {
            to: To::Dropped(reason),
            shown: None,
            is_source_unknown: reason == DropReason::UnknownSource,
        };
        let Some((to, from)) = addresses(frame) else { return dropped(DropReason::Malformed) };
        if is_segment(frame) {
            // Nobody learns from it where its sender is.
            return FromBridge { to: To::Nobody, shown: Some(Interest::Segment), is_source_unknown: false };
        }
        let mut is_source_unknown = false;
        match self.macs.port(from) {
            Some(Port::Local) => {}
            Some(Port::Muted) => {
                let shown = interest(frame, &self.answered).filter(|what| what.tells_of_its_sender());
                let shown = shown.map(|what| if what == Interest::Arrival { what } else { Interest::Muted });
                return FromBridge { shown, ..dropped(DropReason::Muted) };
            }
            None if self.local_source == LocalSource::Learned => is_source_unknown = true,
            None | Some(Port::Peer(_) | Port::Moved(_)) => {
                // It may be of a guest that has come this moment.
                let shown = interest(frame, &self.answered)
                    .filter(|what| matches!(what, Interest::Question | Interest::Announcement));
                return FromBridge {
                    shown: shown.map(|_| Interest::Muted),
                    ..dropped(DropReason::UnknownSource)
                };
            }
        }
        if to.is_multicast() {
            let shown = interest(frame, &self.answered)
                .filter(|what| !matches!(what, Interest::Muted | Interest::Announcement));
            let to = match shown {
                Some(Interest::Question) => To::Nobody,
                Some(Interest::Membership) => To::Peers(&self.ungrouped),
                _ if is_for_all(to) => To::Peers(&self.flood),
                _ => To::Peers(self.groups.get(&to).unwrap_or(&self.ungrouped)),
            };
            return FromBridge { to, shown, is_source_unknown };
        }
        let to = match self.macs.port(to) {
            Some(Port::Peer(peer) | Port::Moved(peer)) => To::Peer(peer),
            // It came a moment ago, and this was on its way to where it was.
            Some(Port::Local) => self.arrived.get(&to).map_or(To::Nobody, |before| To::Peer(*before)),
            Some(Port::Muted) => To::Dropped(DropReason::Muted),
            None if self.unknown_destination == UnknownDestination::Flooded => {
                To::Peers(&self.learning_peers)
            }
            None => To::Dropped(DropReason::UnknownDestination),
        };
        FromBridge { to, shown: None, is_source_unknown }
    }

    /// Decides for a frame from a peer. What comes from a peer goes to no other, so that nothing can go in circles; but for
    /// what comes for a guest that went away, and a host never sends on what it is sent for a guest that is there.
    pub fn from_peer(&self, peer: PeerId, frame: &[u8]) -> FromPeer {
        let Some((to, from)) = addresses(frame) else { return FromPeer::Malformed };
        if is_segment(frame) {
            // It is about the segments of this host, and only they can say it.
            return FromPeer::NotHere;
        }
        match self.macs.port(from) {
            Some(Port::Peer(owner)) if owner == peer => {}
            // It went there a moment ago, which its new host knows sooner than its claim tells.
            Some(Port::Moved(owner)) if owner == peer => {}
            None if self.learning_peers.contains(&peer) => {}
            // Sent on by where the guest was before.
            Some(Port::Peer(_) | Port::Moved(_) | Port::Local) if self.arrived.get(&to) == Some(&peer) => {}
            None | Some(Port::Local | Port::Muted | Port::Peer(_) | Port::Moved(_)) => {
                return FromPeer::ForeignSource;
            }
        }
        if to.is_multicast() {
            return FromPeer::Deliver;
        }
        match self.macs.port(to) {
            Some(Port::Local) => FromPeer::Deliver,
            // Also back to whom it is from, where it has come in the meantime.
            Some(Port::Moved(next)) => FromPeer::Forward(next),
            None if self.local_source == LocalSource::Learned => FromPeer::Deliver,
            None | Some(Port::Muted | Port::Peer(_)) => FromPeer::NotHere,
        }
    }
}

/// Whom a frame says that it is from; none when it is too short for that.
pub fn source(frame: &[u8]) -> Option<MacAddr> {
    Some(MacAddr(*frame.get(6..)?.first_chunk()?))
}

/// A frame's destination and source; none when it has no whole header, or a source that nobody can have.
fn addresses(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let header: &[u8; 14] = frame.first_chunk()?;
    let [to @ .., _, _, _, _, _, _, _, _] = header;
    let from = MacAddr([header[6], header[7], header[8], header[9], header[10], header[11]]);
    (!from.is_multicast() && !from.is_zero()).then_some((MacAddr(*to), from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const SILENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const GONE: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
    const NOWHERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 3]);
    const OTHER_GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 4]);
    const ALL_HOSTS: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    const P: PeerId = PeerId(1);
    const Q: PeerId = PeerId(2);

    fn forwarding() -> Forwarding {
        let mut forwarding = Forwarding::new(10);
        for (mac, port) in
            [(HERE, Port::Local), (THERE, Port::Peer(P)), (SILENT, Port::Muted), (GONE, Port::Moved(Q))]
        {
            forwarding.macs.claim(mac, port).unwrap();
        }
        forwarding.flood = [P, Q].into();
        forwarding.groups = Arc::new([(GROUP, [Q].into())].into());
        forwarding.ungrouped = [P].into();
        forwarding.answered = ["10.0.0.2".parse().unwrap()].into_iter().collect();
        forwarding
    }

    fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
        [&to.0[..], &from.0, &[8, 0], &[0; 46]].concat()
    }

    fn arp(from: MacAddr, target: [u8; 4]) -> Vec<u8> {
        let mut frame = frame(BROADCAST, from);
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame[22..28].copy_from_slice(&from.0);
        frame[28..32].copy_from_slice(&[10, 0, 0, 1]);
        frame[38..42].copy_from_slice(&target);
        frame
    }

    #[test]
    fn frames_from_the_bridge() {
        let forwarding = forwarding();
        let to = |to, from| forwarding.from_bridge(&frame(to, from)).to;
        assert_eq!(to(THERE, HERE), To::Peer(P));
        assert_eq!(to(GONE, HERE), To::Peer(Q));
        assert_eq!(to(HERE, HERE), To::Nobody);
        assert_eq!(to(SILENT, HERE), To::Dropped(DropReason::Muted));
        assert_eq!(to(NOWHERE, HERE), To::Dropped(DropReason::UnknownDestination));
        assert_eq!(to(BROADCAST, HERE), To::Peers(&[P, Q]));
        assert_eq!(to(GROUP, HERE), To::Peers(&[Q]));
        assert_eq!(to(OTHER_GROUP, HERE), To::Peers(&[P]));
        assert_eq!(to(ALL_HOSTS, HERE), To::Peers(&[P, Q]));
        assert_eq!(to(THERE, SILENT), To::Dropped(DropReason::Muted));
        for spoofed in [THERE, GONE, NOWHERE] {
            assert_eq!(to(BROADCAST, spoofed), To::Dropped(DropReason::UnknownSource));
        }
        assert_eq!(to(THERE, GROUP), To::Dropped(DropReason::Malformed));
        assert_eq!(forwarding.from_bridge(&[0; 13]).to, To::Dropped(DropReason::Malformed));
    }

    #[test]
    fn machines_that_nobody_manages() {
        let mut forwarding = forwarding();
        forwarding.local_source = LocalSource::Learned;
        forwarding.unknown_destination = UnknownDestination::Flooded;
        forwarding.learning_peers = [Q].into();
        let bytes = frame(NOWHERE, MacAddr([2, 9, 9, 9, 9, 9]));
        let decision = forwarding.from_bridge(&bytes);
        assert_eq!((decision.to, decision.is_source_unknown), (To::Peers(&[Q]), true));
        assert_eq!(forwarding.from_peer(Q, &frame(HERE, NOWHERE)), FromPeer::Deliver);
        assert_eq!(forwarding.from_peer(Q, &frame(MacAddr([2, 8, 8, 8, 8, 8]), NOWHERE)), FromPeer::Deliver);
        assert_eq!(forwarding.from_peer(P, &frame(HERE, NOWHERE)), FromPeer::ForeignSource);
    }

    #[test]
    fn who_else_bridges_here_is_shown_and_goes_nowhere() {
        let frame = crate::data::Segment { host: viaduct_types::HostKey([9; 32]), number: 1 }.frame(&[0; 64]);
        let mut forwarding = forwarding();
        for source in [LocalSource::Claimed, LocalSource::Learned] {
            forwarding.local_source = source;
            let decision = forwarding.from_bridge(&frame);
            let expected =
                FromBridge { to: To::Nobody, shown: Some(Interest::Segment), is_source_unknown: false };
            assert_eq!(decision, expected);
        }
        forwarding.learning_peers = [Q].into();
        assert_eq!(forwarding.from_peer(Q, &frame), FromPeer::NotHere);
    }

    #[test]
    fn what_the_control_side_sees() {
        let forwarding = forwarding();
        let question = arp(HERE, [10, 0, 0, 2]);
        let decision = forwarding.from_bridge(&question);
        assert_eq!((decision.to, decision.shown), (To::Nobody, Some(Interest::Question)));
        let other = arp(HERE, [10, 0, 0, 3]);
        let decision = forwarding.from_bridge(&other);
        assert_eq!((decision.to, decision.shown), (To::Peers(&[P, Q]), None));
        // In a VLAN there is another network: who is there answers.
        let tagged = [&question[..12], &[0x81, 0, 0, 5], &question[12..]].concat();
        let decision = forwarding.from_bridge(&tagged);
        assert_eq!((decision.to, decision.shown), (To::Peers(&[P, Q]), None));
        for unknown in [NOWHERE, THERE, GONE] {
            let decision = forwarding.from_bridge(&arp(unknown, [10, 0, 0, 2]));
            assert_eq!(
                (decision.to, decision.shown),
                (To::Dropped(DropReason::UnknownSource), Some(Interest::Muted))
            );
            assert_eq!(forwarding.from_bridge(&frame(BROADCAST, unknown)).shown, None);
        }
        let muted = arp(SILENT, [10, 0, 0, 1]);
        let decision = forwarding.from_bridge(&muted);
        assert_eq!((decision.to, decision.shown), (To::Dropped(DropReason::Muted), Some(Interest::Muted)));
    }

    #[test]
    fn reports_go_to_those_who_want_all_groups_and_questions_to_all() {
        let forwarding = forwarding();
        let igmp = |kind| {
            let mut frame = frame(ALL_HOSTS, HERE);
            frame[14..36].copy_from_slice(&[
                0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1, 224, 0, 0, 1, kind, 0,
            ]);
            frame
        };
        let (report, query) = (igmp(0x16), igmp(0x11));
        let decision = forwarding.from_bridge(&report);
        assert_eq!((decision.to, decision.shown), (To::Peers(&[P]), Some(Interest::Membership)));
        let decision = forwarding.from_bridge(&query);
        assert_eq!((decision.to, decision.shown), (To::Peers(&[P, Q]), Some(Interest::Query)));
    }

    #[test]
    fn what_is_sent_on_to_a_guest_that_has_moved_is_taken() {
        let mut forwarding = forwarding();
        assert_eq!(forwarding.from_peer(Q, &frame(HERE, THERE)), FromPeer::ForeignSource);
        forwarding.arrived = Arc::new([(HERE, Q)].into());
        assert_eq!(forwarding.from_peer(Q, &frame(HERE, THERE)), FromPeer::Deliver);
        assert_eq!(forwarding.from_peer(P, &frame(HERE, GONE)), FromPeer::ForeignSource);
        assert_eq!(forwarding.from_peer(Q, &frame(HERE, NOWHERE)), FromPeer::ForeignSource);
        assert_eq!(forwarding.from_peer(Q, &frame(BROADCAST, THERE)), FromPeer::ForeignSource);
        assert_eq!(forwarding.from_peer(Q, &frame(HERE, HERE)), FromPeer::Deliver, "it was on its way there");
        assert_eq!(forwarding.from_bridge(&frame(HERE, HERE)).to, To::Peer(Q), "and so is this");
    }

    #[test]
    fn frames_from_peers() {
        let forwarding = forwarding();
        let from = |peer, to, from| forwarding.from_peer(peer, &frame(to, from));
        assert_eq!(from(P, HERE, THERE), FromPeer::Deliver);
        assert_eq!(from(P, BROADCAST, THERE), FromPeer::Deliver);
        assert_eq!(from(Q, HERE, THERE), FromPeer::ForeignSource);
        assert_eq!(from(P, HERE, HERE), FromPeer::ForeignSource);
        assert_eq!(from(P, HERE, NOWHERE), FromPeer::ForeignSource);
        assert_eq!(from(P, GONE, THERE), FromPeer::Forward(Q));
        assert_eq!(from(Q, HERE, GONE), FromPeer::Deliver);
        assert_eq!(from(Q, GONE, GONE), FromPeer::Forward(Q));
        assert_eq!(from(P, SILENT, THERE), FromPeer::NotHere);
        assert_eq!(from(P, THERE, THERE), FromPeer::NotHere);
        assert_eq!(from(P, NOWHERE, THERE), FromPeer::NotHere);
        assert_eq!(from(P, HERE, GROUP), FromPeer::Malformed);
    }
}
