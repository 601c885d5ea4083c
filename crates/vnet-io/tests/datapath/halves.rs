//! Frames that are longer than the path is known to take.

use viaduct_vnet_io::datapath::Path;
use viaduct_vnet_proto::data::esp::Cipher;

use super::{
    pair::Pair,
    world::{PEER, path, until},
};

/// A path on which no IP packet longer than 1,228 bytes (1,280 of IPv6) gets anywhere, which may be hoped to take more.
fn narrow(pair: &Pair, hoped: u16, mtu: u32) {
    for side in 0..2 {
        let remote = pair.hosts[1 - side].address;
        let (link, largest) = if remote.is_ipv4() { (1_228, 1_200) } else { (1_280, 1_232) };
        pair.rooms[side].ip(&format!("link set u0 mtu {link}"));
        let path = Path { hoped: hoped.max(largest), ..path(remote, largest) };
        pair.hosts[side].handle.set_path(PEER, path);
        pair.hosts[side].handle.settle().unwrap();
        pair.guests[side].ip(&format!("link set eth0 mtu {mtu}"));
        pair.rooms[side].ip(&format!("link set g0 mtu {mtu}"));
        pair.rooms[side].ip(&format!("link set vn0 mtu {mtu}"));
    }
}

#[test]
fn what_ipv6_counts_on_gets_through_any_path() {
    for (underlay, cipher) in [
        (["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gcm),
        (["2001:db8::1", "2001:db8::2"], Cipher::ChaCha20Poly1305),
        (["192.0.2.1", "192.0.2.2"], Cipher::Aes128Gmac),
    ] {
        let pair = Pair::new(underlay, cipher, [1, 1], [false, false]);
        pair.guests[0].command("ping -q -c 1 -W 5 fd09::2");
        narrow(&pair, 0, 1_280);
        let lost = pair.lost();
        // 40 and 8 bytes of headers.
        pair.guests[0].command("ping -q -c 20 -i 0.01 -W 5 -M do -s 1232 fd09::2");
        let [a, b] = pair.counters();
        assert!(a.peers[&PEER].in_two >= 20 && b.peers[&PEER].in_two >= 20, "{cipher}: {a:?} {b:?}");
        pair.transfer("fd09::2", 500_000);
        pair.transfer("10.9.0.2", 500_000);
        until("nothing is lost", || pair.lost() == lost);
        let [a, b] = pair.counters().map(|counters| counters.peers[&PEER]);
        assert_eq!([a.too_big, b.too_big], [0, 0], "{cipher}: nothing was longer than the path takes");
    }
}

#[test]
fn what_is_only_hoped_for_goes_in_two_so_that_none_of_it_is_lost() {
    let pair = Pair::simple();
    pair.guests[0].command("ping -q -c 1 -W 5 10.9.0.2");
    narrow(&pair, 1_472, 1_432);
    let lost = pair.lost();
    pair.guests[0].command("ping -q -c 20 -i 0.01 -W 5 -M do -s 1404 10.9.0.2");
    pair.guests[0].command("ping -q -c 20 -i 0.01 -W 5 -M do -s 1384 fd09::2");
    pair.transfer("10.9.0.2", 3_000_000);
    pair.transfer("fd09::2", 3_000_000);
    until("nothing is lost", || pair.lost() == lost);
    let [a, b] = pair.counters();
    let frames = a.peers[&PEER].in_two;
    assert!(frames >= 40, "{frames}");
    assert_eq!([a, b].map(|counters| counters.peers[&PEER].too_big), [0, 0]);
    // What fits goes whole.
    pair.guests[0].command("ping -q -c 1 -W 5 -s 500 10.9.0.2");
    assert_eq!(pair.counters()[0].peers[&PEER].in_two, frames);
}
