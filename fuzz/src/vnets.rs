//! What holds of whatever other hosts and guests of vnets say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use viaduct_types::{HostKey, MacAddr, VnetId, Vni};
use viaduct_vnet_proto::{
    control::{
        Beacon, Exporter, Heard, MOST_BEACON_ADDRESSES, Message, Node, Security, SessionId, Settings,
        VnetSettings, answer, inner_mtu, too_big,
    },
    data::{
        Cut, Forwarding, Joins, Listeners, LocalSource, MOST_GROUPS, OFFLOAD_HEADER, Offload, PeerId, Port,
        ReplayWindow, Run, Segment, Spi, UnknownDestination,
        esp::{Cipher, Half, Probe, datagram_length, largest_frame, padding},
        is_for_all,
    },
};

const OWN: HostKey = HostKey([1; 32]);
/// Two, for each of whom something may be that the other one asks.
const PEERS: [HostKey; 2] = [HostKey([2; 32]), HostKey([3; 32])];
const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// What both ends could compute; here it is no secret, so that an input can prove what it likes.
struct Open;

impl Exporter for Open {
    fn export(&self, _: &[u8], context: &[u8]) -> Option<[u8; 16]> {
        let mut secret = [0; 16];
        for (to, from) in secret.iter_mut().zip(context.iter().rev()) {
            *to = *from;
        }
        Some(secret)
    }
}

fn host() -> Option<Node> {
    let vnet = |security, vni| VnetSettings {
        security,
        cipher: None,
        vni,
        learning: security == Security::None,
        mtu: None,
        peers: PEERS.into(),
        nics: [(HERE, vec![IpAddr::from([10, 0, 0, 1])])].into(),
    };
    let vnets: [(VnetId, VnetSettings); 3] = [
        ("97".parse().ok()?, vnet(Security::Conf, None)),
        ("98".parse().ok()?, vnet(Security::Auth, None)),
        ("99".parse().ok()?, vnet(Security::None, Vni::new(5))),
    ];
    let mut node = Node::new(OWN, BTreeMap::new(), 1 << 29);
    let settings = Settings {
        workers: 2,
        ports: vec![1800, 1801],
        fast_aes: true,
        rekey: Duration::from_secs(1),
        vnets: vnets.into(),
        relay: PEERS.into(),
    };
    node.configure(Duration::ZERO, 1, settings);
    Some(node)
}

/// What stands before each message of an input: whose it is, or what happens instead of one.
fn event(byte: u8) -> (usize, u8) {
    (usize::from(byte & 1), byte >> 1)
}

/// What two peers say, in turns: what is read is written the same, and whatever they say, what follows from it stays bounded.
pub fn control(bytes: &[u8]) {
    // Bytes that messages seldom have.
    const ENDS: u8 = 0x7d;
    const IS_WANTED: u8 = 0x7e;
    const IS_NOT_WANTED: u8 = 0x7f;
    let Some(mut node) = host() else { return };
    let mut now = Duration::from_secs(1);
    let mut sessions = [SessionId(1), SessionId(2)];
    for (key, session) in PEERS.into_iter().zip(sessions) {
        assert!(node.handle_connected(now, key, session, true, Box::new(Open)).is_ok());
    }
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        now += Duration::from_millis(300);
        node.handle_timeout(now);
        let (who, what) = event(*byte);
        let mut ends = what == ENDS;
        match what {
            ENDS => {}
            IS_WANTED => node.want_detour(PEERS[who], true),
            IS_NOT_WANTED => node.want_detour(PEERS[who], false),
            _ => {
                let Ok(Some((message, length))) = Message::read(rest) else { break };
                let (own, after) = rest.split_at(length);
                rest = after;
                if let Some(message) = message {
                    let mut written = Vec::new();
                    message.write(&mut written);
                    assert_eq!(written, own, "{message:?}");
                    ends = node.handle_message(now, sessions[who], message).is_err();
                }
            }
        }
        if ends {
            node.handle_disconnected(now, sessions[who]);
            sessions[who] = SessionId(sessions[who].0 + 2);
            let again = node.handle_connected(now, PEERS[who], sessions[who], true, Box::new(Open));
            assert!(again.is_ok());
        }
        said(&mut node, sessions);
        passed_on(&node);
    }
    for vnet in ["97", "98", "99"] {
        let report = vnet.parse().ok().and_then(|id| node.report(id, usize::MAX));
        assert!(report.is_some());
    }
    sessions.into_iter().for_each(|session| node.handle_disconnected(now, session));
    now += Duration::from_secs(60);
    node.handle_timeout(now);
    while node.poll_action().is_some() {}
    // Who is gone claims nothing, and nothing goes by way of it.
    let left =
        "97".parse().ok().and_then(|id| node.report(id, usize::MAX)).map_or(0, |report| report.macs.len());
    assert_eq!(left, 1);
    assert_eq!((node.passes().count(), node.detours().count()), (0, 0));
}

/// What is to be done and said after one message.
fn said(node: &mut Node, sessions: [SessionId; 2]) {
    let mut actions = 0;
    while node.poll_action().is_some() {
        actions += 1;
    }
    // A claim each for as many as one peer may have, at the most.
    assert!(actions < 70_000);
    while let Some((session, said)) = node.poll_transmit() {
        assert!(said.len() < 1 << 20);
        // What is said here can be read there.
        let mut said = &said[..];
        while let Ok(Some((message, length))) = Message::read(said) {
            let Some(message) = message else { panic!("nobody knows it") };
            // A number to send by is given to who is there, and not for itself.
            if let Message::Granted { key, spi: Some(_) } = message {
                let is_other = |(own, there): (HostKey, SessionId)| there == session && own != key;
                assert!(PEERS.into_iter().zip(sessions).any(is_other), "{key}");
            }
            said = &said[length..];
        }
        assert!(said.is_empty());
    }
}

/// What is passed on goes from one peer to the other, by numbers of which none means two things.
fn passed_on(node: &Node) {
    let mut numbers = BTreeSet::new();
    for pass in node.passes() {
        assert!(pass.from != pass.to && PEERS.contains(&pass.from) && PEERS.contains(&pass.to), "{pass:?}");
        assert!(numbers.insert(pass.spi), "{pass:?}");
    }
    // Both ways stand, or none does.
    assert!([0, 2].contains(&numbers.len()), "{numbers:?}");
    for detour in node.detours() {
        assert!(detour.peer != detour.relay && PEERS.contains(&detour.relay), "{detour:?}");
        assert!(numbers.insert(detour.inbound), "{detour:?}");
    }
}

/// A frame with what a tap says of it: cut, judged, joined, answered. The two first bytes say how long datagrams may be.
pub fn frames(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((header, frame)) = rest.split_first_chunk::<OFFLOAD_HEADER>() else { return };
    let (longest, mut frame) = (usize::from(u16::from_be_bytes(*length)), frame.to_vec());
    judged(&frame);
    let offload = Offload::read(header);
    if let Ok(cut) = Cut::plan(&offload, &mut frame, longest) {
        let pieces: Vec<Vec<u8>> =
            (0..cut.count()).map(|index| cut.with_frame(index, &mut frame, <[u8]>::to_vec)).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= longest));
        for joins in [Joins::Tcp, Joins::TcpAndUdp] {
            let Some(first) = pieces.first() else { continue };
            let (mut run, mut whole) = (Run::start(first, joins), first.clone());
            for piece in pieces.iter().skip(1) {
                let Some(from) = run.push(first, piece) else { break };
                whole.extend(&piece[from..]);
            }
            let offload = run.finish(&mut whole);
            // The kernel is told of nothing that is not there.
            assert!(usize::from(offload.header_length) <= whole.len());
        }
    }
    window(rest);
}

fn judged(frame: &[u8]) {
    let mut forwarding = Forwarding::new(8);
    let ports = [(HERE, Port::Local), (THERE, Port::Peer(PeerId(1)))];
    assert!(ports.into_iter().all(|(mac, port)| forwarding.macs.claim(mac, port).is_ok()));
    forwarding.flood = [PeerId(1), PeerId(2)].into();
    forwarding.answered = [IpAddr::from([10, 0, 0, 2])].into_iter().collect();
    for source in [LocalSource::Claimed, LocalSource::Learned] {
        forwarding.local_source = source;
        forwarding.unknown_destination = UnknownDestination::Flooded;
        let _ = (forwarding.from_bridge(frame), forwarding.from_peer(PeerId(1), frame));
    }
    if let Some(answer) = answer(frame, |_| Some(THERE)) {
        assert!((42..=128).contains(&answer.len()));
        assert_ne!(answer[6..12], frame[6..12], "it answers for somebody else");
    }
    if let Some(answer) = too_big(frame, 1280) {
        assert!(answer.len() <= 1294);
    }
    if let Some((segment, signature)) = Segment::read(frame) {
        assert_eq!(Segment::read(&segment.frame(signature)), Some((segment, signature)));
    }
    if let Some((path, _)) = frame.split_first_chunk::<2>() {
        let path = u16::from_be_bytes(*path);
        for security in [Security::None, Security::Auth, Security::Conf] {
            assert!(inner_mtu(path, true, security) <= inner_mtu(path, false, security));
            assert!(inner_mtu(path, false, security) <= path.max(1280));
        }
    }
}

/// Numbers as they come: none is taken twice.
fn window(bytes: &[u8]) {
    let (mut window, mut taken) = (ReplayWindow::default(), std::collections::BTreeSet::new());
    for low in bytes.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]])) {
        let number = window.infer(low);
        let is_free = window.check(number).is_ok();
        assert_eq!(window.accept(number).is_ok(), is_free);
        assert!(!is_free || taken.insert(number), "{number} twice");
    }
}

/// A beacon from anybody is read as it was written, and what was accepted is not looked at again.
pub fn beacon(bytes: &[u8]) {
    let Some((beacon, signed, signature)) = Beacon::read(bytes) else { return };
    assert_eq!(beacon.write(), signed, "{beacon:?}");
    assert_eq!([signed, signature].concat(), bytes);
    assert!((1..=MOST_BEACON_ADDRESSES).contains(&beacon.addresses.len()) && beacon.port != 0);
    let is_place = |at: &IpAddr| !(at.is_multicast() || at.is_unspecified() || at.is_loopback());
    assert!(beacon.addresses.iter().all(is_place), "{beacon:?}");
    let mut heard = Heard::default();
    let is_other = beacon.key != OWN;
    assert_eq!(heard.check(beacon.time, &beacon, OWN, |_| true).is_ok(), is_other);
    assert!(heard.check(beacon.time, &beacon, OWN, |_| false).is_err());
    heard.accept(&beacon);
    assert!(heard.check(beacon.time, &beacon, OWN, |_| true).is_err());
}

/// Frames of one host's machines, each with two bytes before it that say how long it is: whatever they say, so many groups are
/// remembered at most, those that go to all are none of them, and what nobody says again is forgotten.
pub fn listeners(bytes: &[u8]) {
    let mut now = Duration::from_secs(100);
    let mut listeners = Listeners::new(Duration::ZERO);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        now += Duration::from_millis(100);
        listeners.hear(now, frame);
        listeners.handle_timeout(now);
        let wanted = listeners.wanted(now).unwrap_or_default();
        assert!(wanted.len() <= MOST_GROUPS);
        assert!(wanted.iter().all(|group| group.is_multicast() && !is_for_all(*group)), "{wanted:?}");
    }
    now += Duration::from_secs(600);
    assert!(listeners.handle_timeout(now), "nobody is asked");
    assert_eq!(listeners.wanted(now), Some(Default::default()), "it holds for ever");
}

/// What stands around frames in datagrams, and in those that carry none.
pub fn esp(bytes: &[u8]) {
    match (Probe::read(bytes), Half::read(bytes)) {
        (Some(_), Some(_)) => panic!("two things at once"),
        (Some(probe), None) => assert_eq!(probe.write(), bytes),
        (None, Some((half, content))) => assert_eq!([&half.header()[..], content].concat(), bytes),
        (None, None) => {}
    }
    if let Some((bits, _)) = bytes.split_first_chunk::<4>() {
        let bits = u32::from_be_bytes(*bits);
        // QUIC and what is no ESP are told apart by the first bytes.
        let is_esp = bits > 255 && bytes[0] & 0x40 == 0;
        assert_eq!(Spi::new(bits).map(Spi::value), is_esp.then_some(bits));
    }
    let datagram = bytes.len();
    for cipher in Cipher::ALL {
        let Some(frame) = largest_frame(cipher, datagram) else { continue };
        assert!(datagram_length(cipher, frame) <= datagram);
        assert!(datagram_length(cipher, frame + 1) > datagram);
        assert!((frame + padding(frame) + 2).is_multiple_of(4));
    }
    window(bytes);
}
