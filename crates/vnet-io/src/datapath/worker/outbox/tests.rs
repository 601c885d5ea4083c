//! What becomes of what the kernel will not cut.

use std::{net::UdpSocket, time::Duration};

use tokio::sync::mpsc;

use super::*;
use crate::{
    datapath::{api::Relay, socket::UDP_GRO},
    socket_options,
};

/// So many datagrams make a run, each this long.
const COUNT: usize = 40;
const LENGTH: usize = 500;
/// Sent as one, the kernel cuts it only where it is received, and it is received as one.
const WHOLE: [usize; 1] = [COUNT * LENGTH];
const SINGLY: [usize; COUNT] = [LENGTH; COUNT];

/// An outbox, with two places for each kind of target.
struct World {
    outbox: Outbox,
    routes: Routes,
    relayed: [Arc<LiveRelay>; 2],
    places: [UdpSocket; 2],
}

/// What is known of a place.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    refused: u64,
    sent_singly: u64,
    failed: u64,
    /// Are to be sent one by one.
    left: u64,
}

fn spi(place: usize) -> Spi {
    Spi::new(0x5005 + u32::try_from(place).unwrap()).unwrap()
}

fn id(place: usize) -> PeerId {
    PeerId(u32::try_from(place).unwrap())
}

fn peer(place: usize) -> Target {
    Target::Peer(id(place), Lane::First)
}

fn relayed(place: usize) -> Target {
    Target::Relayed(spi(place))
}

impl World {
    fn new() -> Self {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let places = [socket(), socket()];
        let (events, _) = mpsc::channel(1);
        let (datagrams, _) = mpsc::channel(1);
        let outlets = Outlets { events, datagrams };
        let mut outbox = Outbox::new(Socket::prepare(socket(), 0).unwrap(), Arc::default(), outlets);
        let (mut routes, mut relays) = (Routes::default(), Relays::default());
        let counters: [Arc<LiveRelay>; 2] = Default::default();
        for (index, place) in places.iter().enumerate() {
            place.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket_options::set(place, libc::SOL_UDP, UDP_GRO, &1_i32.to_ne_bytes()).unwrap();
            let remote = place.local_addr().unwrap();
            let path = Path {
                remote,
                own: Vec::new(),
                local: None,
                largest_datagram: 1_472,
                hoped: 1_472,
                via: None,
            };
            routes.insert(id(index), Route::new(Arc::new(path), Arc::default(), 0));
            let relay = Relay {
                spi: spi(index),
                from: remote,
                to: remote,
                onward: spi(index),
                bytes_per_second: u64::MAX,
            };
            relays.insert(relay.spi, Relayed::Onward(relay, Arc::clone(&counters[index])));
        }
        outbox.set_relays(Arc::new(relays));
        Self { outbox, routes, relayed: counters, places }
    }

    /// A run of numbered datagrams waits to be sent.
    fn put(&mut self, to: Target) {
        for number in 0..COUNT {
            let place = self.outbox.datagram(to, LENGTH, &mut self.routes);
            place[ROOM] = u8::try_from(number).unwrap();
        }
    }

    /// The kernel answers to it with an error.
    fn refused(&mut self, error: libc::c_int) {
        let [message] = self.outbox.messages[..] else { panic!("{:?}", self.outbox.messages) };
        self.outbox.messages.clear();
        self.outbox.failed(message, &io::Error::from_raw_os_error(error), &mut self.routes);
        self.outbox.flush(&mut self.routes);
    }

    fn send(&mut self, to: Target) {
        self.put(to);
        self.outbox.flush(&mut self.routes);
    }

    /// How a run comes to a place: how long what is received is.
    fn heard(&self, place: usize) -> Vec<usize> {
        let mut bytes = vec![0; 65_536];
        let (mut run, mut lengths) = (Vec::new(), Vec::new());
        while run.len() < COUNT * LENGTH {
            let length = self.places[place].recv(&mut bytes).unwrap();
            run.extend_from_slice(&bytes[..length]);
            lengths.push(length);
        }
        let numbers: Vec<usize> = run.chunks(LENGTH).map(|datagram| datagram[0].into()).collect();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
        lengths
    }

    fn known(&self, to: Target) -> Known {
        match to {
            Target::Peer(peer, _) => {
                let Route { counters, singly, .. } = &self.routes[&peer];
                assert_eq!(counters.unsegmented.value(), u64::from(*singly > 0));
                Known {
                    refused: counters.segmentation_refused.value(),
                    sent_singly: counters.sent_singly.value(),
                    failed: counters.send_failed.value(),
                    left: *singly,
                }
            }
            Target::Relayed(_) => {
                let counters = &self.relayed[0];
                Known {
                    refused: counters.segmentation_refused.value(),
                    sent_singly: counters.sent_singly.value(),
                    failed: counters.send_failed.value(),
                    left: counters.unsegmented.value(),
                }
            }
            Target::Probe(_) => unreachable!(),
        }
    }

    /// All but so many of those have been sent.
    fn leave(&mut self, to: Target, left: u64) {
        match to {
            Target::Peer(peer, _) => self.routes.get_mut(&peer).unwrap().singly = left,
            Target::Relayed(_) => self.relayed[0].unsegmented.set(left),
            Target::Probe(_) => unreachable!(),
        }
    }
}

#[test]
fn what_the_kernel_will_not_cut_goes_one_by_one_to_there_and_for_a_while() {
    for error in [libc::EIO, libc::EINVAL, libc::ENOPROTOOPT, libc::EOPNOTSUPP] {
        for [to, other] in [[peer(0), peer(1)], [relayed(0), relayed(1)]] {
            let mut world = World::new();
            world.send(to);
            assert_eq!(world.heard(0), WHOLE);
            world.put(to);
            world.refused(error);
            assert_eq!(world.heard(0), SINGLY, "{to:?}: {error}");
            let count = COUNT as u64;
            let known = Known { refused: 1, sent_singly: count, failed: 0, left: RETRY - count };
            assert_eq!(world.known(to), known, "{to:?}: {error}");
            // Another way may be better.
            world.send(other);
            assert_eq!(world.heard(1), WHOLE);
            // Until so many have been sent, the kernel is not asked again.
            world.leave(to, count + 1);
            for left in [1, 0] {
                world.send(to);
                assert_eq!(world.heard(0), SINGLY);
                assert_eq!(world.known(to).left, left);
            }
            world.send(to);
            assert_eq!(world.heard(0), WHOLE);
            let known = Known { refused: 1, sent_singly: 3 * count, failed: 0, left: 0 };
            assert_eq!(world.known(to), known, "{to:?}: {error}");
        }
    }
}

#[test]
fn what_no_cutting_would_help_is_not_sent_again() {
    for to in [peer(0), relayed(0)] {
        let mut world = World::new();
        world.put(to);
        world.refused(libc::EPERM);
        let known = Known { refused: 0, sent_singly: 0, failed: COUNT as u64, left: 0 };
        assert_eq!(world.known(to), known);
        // The next goes as ever, and nothing came before it.
        world.send(to);
        assert_eq!(world.heard(0), WHOLE);
    }
}
