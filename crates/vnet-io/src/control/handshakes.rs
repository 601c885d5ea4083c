//! Which handshakes go on. Anybody can send what one begins with, with any address: of those who have not shown that they are
//! where they say, a few go on at once, so that usually nobody has to; the others are asked to show it first (RFC 9000, section
//! 8.1.2). Those who have share places of their own, and no address takes all of these. Where all are taken, the oldest
//! makes room: whoever means it needs two round trips.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::reach::relay_of;

/// So many go on at once of those who have not shown where they are.
const UNPROVEN: usize = 8;
/// So many of those who have.
const PROVEN: usize = 128;
/// So many of them from one address.
const FROM_ONE: usize = 16;
/// A place is taken for so long at least, however soon its handshake ends: nobody keeps the host busy with many short ones.
const REST: Duration = Duration::from_millis(250);

/// By which a handshake is told from others; a later one has a higher number.
pub(super) type Number = u64;

/// What becomes of one that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It begins, and another one ends for it.
    Begins { number: Number, instead_of: Option<Number> },
    /// Whoever asks has to show first that it is where it says.
    HasToProve,
    /// It asks again by itself, and there may be room then.
    HasToWait,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    source: Source,
    is_proven: bool,
    since: Duration,
    has_ended: bool,
}

/// What is one place as far as anybody can tell: an address of IPv4, or what a customer has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source(IpAddr);

impl Source {
    fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            // Its address says by whom it comes and who it is, and is nobody's on any network.
            IpAddr::V6(v6) if relay_of(address).is_none() => {
                Self(IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()))
            }
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Self(ip),
        }
    }
}

/// The handshakes that go on, and how many did not begin or not end for that.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    places: BTreeMap<Number, Place>,
    next: Number,
}

impl Handshakes {
    /// Somebody begins one.
    pub(super) fn ask(&mut self, now: Duration, from: SocketAddr, is_proven: bool) -> Verdict {
        let is_taken = |place: &Place| !place.has_ended || now.saturating_sub(place.since) < REST;
        self.places.retain(|_, place| is_taken(place));
        let source = Source::of(from);
        let of_kind = || self.places.iter().filter(|(_, place)| place.is_proven == is_proven);
        let mut instead_of = None;
        if is_proven {
            // What is unproven may have been sent by anybody, and takes no place of those whose address it has.
            let mut from_there = of_kind().filter(|(_, place)| place.source == source);
            if from_there.clone().count() >= FROM_ONE {
                instead_of =
                    from_there.find(|(_, place)| !place.has_ended && now.saturating_sub(place.since) >= REST);
                if instead_of.is_none() {
                    return Verdict::HasToWait;
                }
            } else {
                let going = || of_kind().filter(|(_, place)| !place.has_ended);
                instead_of = if going().count() >= PROVEN { going().next() } else { None };
            }
        } else if of_kind().count() >= UNPROVEN {
            return Verdict::HasToProve;
        }
        let instead_of = instead_of.map(|(number, _)| *number);
        if let Some(place) = instead_of.and_then(|number| self.places.get_mut(&number)) {
            place.has_ended = true;
        }
        let number = self.next;
        self.next += 1;
        self.places.insert(number, Place { source, is_proven, since: now, has_ended: false });
        Verdict::Begins { number, instead_of }
    }

    /// One has ended, whatever it led to.
    pub(super) fn ended(&mut self, number: Number) {
        if let Some(place) = self.places.get_mut(&number) {
            place.has_ended = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// The nth address of the nth network.
    fn v6(network: u16, host: u16) -> SocketAddr {
        format!("[2001:db8:{network:x}:1::{host:x}]:1798").parse().unwrap()
    }

    fn begins(verdict: Verdict) -> Number {
        let Verdict::Begins { number, instead_of: None } = verdict else { panic!("{verdict:?}") };
        number
    }

    #[test]
    fn whoever_shows_where_it_is_finds_room_however_many_do_not() {
        let mut handshakes = Handshakes::default();
        for host in 0..1000 {
            let verdict = handshakes.ask(at(0), v6(host, 1), false);
            assert_eq!(verdict == Verdict::HasToProve, usize::from(host) >= UNPROVEN);
        }
        begins(handshakes.ask(at(1), v6(7, 1), true));
        begins(handshakes.ask(at(1), "192.0.2.1:5".parse().unwrap(), true));
    }

    #[test]
    fn nobody_has_to_show_it_while_few_come() {
        let mut handshakes = Handshakes::default();
        for host in 0..1000 {
            let number = begins(handshakes.ask(at(u64::from(host) * 40), v6(1, host), false));
            handshakes.ended(number);
        }
    }

    #[test]
    fn one_network_takes_no_more_than_its_part_and_its_oldest_makes_room() {
        let mut handshakes = Handshakes::default();
        let numbers: Vec<Number> = (0..16).map(|n| begins(handshakes.ask(at(0), v6(1, n), true))).collect();
        assert_eq!(handshakes.ask(at(100), v6(1, 99), true), Verdict::HasToWait);
        begins(handshakes.ask(at(100), v6(2, 1), true));
        let verdict = handshakes.ask(at(300), v6(1, 99), true);
        assert!(matches!(verdict, Verdict::Begins { instead_of: Some(oldest), .. } if oldest == numbers[0]));
    }

    #[test]
    fn short_ones_are_no_way_around_it() {
        let mut handshakes = Handshakes::default();
        let from = "192.0.2.1:5".parse().unwrap();
        let mut begun = 0;
        for time in 0..1000 {
            if let Verdict::Begins { number, .. } = handshakes.ask(at(time), from, true) {
                handshakes.ended(number);
                begun += 1;
            }
        }
        assert_eq!(begun, FROM_ONE * 4);
    }

    #[test]
    fn of_many_networks_the_latest_go_on() {
        let mut handshakes = Handshakes::default();
        let of = |n: usize| v6(u16::try_from(n).unwrap(), 1);
        for n in 0..PROVEN {
            begins(handshakes.ask(at(0), of(n), true));
        }
        for n in 0..100 {
            let verdict = handshakes.ask(at(1), of(PROVEN + n), true);
            assert!(
                matches!(verdict, Verdict::Begins { instead_of: Some(oldest), .. } if oldest == n as u64)
            );
        }
    }

    #[test]
    fn by_way_of_others_each_host_is_a_place_of_its_own() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_ne!(of("[100::1:0:2]:1798"), of("[100::1:0:3]:1798"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"));
    }
}
