//! Guest, bridge, tap, host, and the same at the other side.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
};

use viaduct_vnet_io::datapath::{Association, Counters, Direction, Lane};
use viaduct_vnet_proto::data::{
    PeerId, Port,
    esp::{Cipher, largest_frame},
    receiver,
};

use super::world::{Host, LARGEST, PATIENCE, Room, association, mac};

pub(crate) const PEER: PeerId = PeerId(1);

/// Two hosts with a guest each.
pub(crate) struct Pair {
    pub(crate) hosts: [Host; 2],
    pub(crate) rooms: [Room; 2],
    pub(crate) guests: [Room; 2],
}

impl Pair {
    /// Over IPv4 or IPv6 between the hosts.
    pub(crate) fn new(underlay: [&str; 2], cipher: Cipher, workers: [usize; 2], has_own: [bool; 2]) -> Self {
        let datagram = if underlay[0].contains(':') { LARGEST - 20 } else { LARGEST };
        let mtu = largest_frame(cipher, usize::from(datagram)).unwrap() - 14;
        let (rooms, guests) = ([Room::new(), Room::new()], [Room::new(), Room::new()]);
        rooms[0].link("u0", &rooms[1], "u0");
        let addresses = underlay.map(|address| address.parse::<IpAddr>().unwrap());
        for (room, address) in rooms.iter().zip(addresses) {
            let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
            room.ip(&format!("addr add {address}/{length} dev u0{nodad}"));
        }
        let hosts =
            [0, 1].map(|side| Host::start(&rooms[side], addresses[side], workers[side], has_own[side]));
        for side in 0..2 {
            let other = 1 - side;
            let (room, guest, host) = (&rooms[side], &guests[side], &hosts[side]);
            host.reach(PEER, hosts[other].address, &hosts[other].own);
            let number = |side: usize| u8::try_from(side + 1).unwrap();
            host.forward(
                &[(mac(number(side)), Port::Local), (mac(number(other)), Port::Peer(PEER))],
                &[PEER],
            );
            for worker in 0..workers[side] {
                let spi = 0x1000 + u32::try_from(16 * side + worker).unwrap();
                host.handle.install(association(cipher, spi, PEER, Direction::Outbound, worker)).unwrap();
                let own = Association {
                    lane: Lane::Own,
                    ..association(cipher, spi + 0x100, PEER, Direction::Outbound, worker)
                };
                host.handle.install(own).unwrap();
            }
            for worker in 0..workers[other] {
                let spi = 0x1000 + u32::try_from(16 * other + worker).unwrap();
                // By the first ports, the first worker receives for all.
                let first = Association {
                    queue: receiver(worker, workers[side]),
                    ..association(cipher, spi, PEER, Direction::Inbound, 0)
                };
                host.handle.install(first).unwrap();
                let at = receiver(worker, hosts[side].own.len());
                let own = Association {
                    lane: Lane::Own,
                    ..association(cipher, spi + 0x100, PEER, Direction::Inbound, at)
                };
                host.handle.install(own).unwrap();
            }
            host.handle.settle().unwrap();
            room.ip("link add br0 type bridge");
            room.ip("link set br0 addrgenmode none up");
            room.link("g0", guest, "eth0");
            room.ip("link set g0 master br0");
            room.ip(&format!("link set vn0 mtu {mtu} addrgenmode none master br0 up"));
            guest.ip(&format!("link set eth0 address {} mtu {mtu}", mac(number(side))));
            guest.ip(&format!("addr add 10.9.0.{}/24 dev eth0", number(side)));
            guest.ip(&format!("addr add fd09::{}/64 dev eth0 nodad", number(side)));
        }
        Self { hosts, rooms, guests }
    }

    pub(crate) fn simple() -> Self {
        Self::new(["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm, [1, 1], [false, false])
    }

    /// How many datagrams of each host the other did not get.
    pub(crate) fn lost(&self) -> [u64; 2] {
        let [a, b] = self.counters().map(|counters| counters.peers[&PEER]);
        [
            a.datagrams_out - b.datagrams_in.min(a.datagrams_out),
            b.datagrams_out - a.datagrams_in.min(b.datagrams_out),
        ]
    }

    pub(crate) fn counters(&self) -> [Counters; 2] {
        [self.hosts[0].handle.counters(), self.hosts[1].handle.counters()]
    }

    /// The second guest takes a connection and gets so many bytes; each has to be right.
    pub(crate) fn transfer(&self, address: &'static str, length: usize) {
        let [client, server] = &self.guests;
        let listener = server.run(move || TcpListener::bind((address, 5_000)).unwrap());
        let received = server.start(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let sent = client.run(move || {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut stream = TcpStream::connect((address, 5_000)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap();
            bytes
        });
        assert!(received.recv().unwrap() == sent, "the bytes are others");
    }
}
