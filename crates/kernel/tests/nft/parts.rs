//! Sets and chains come into a table and go from it, and what else is in it stays, with what it has counted.

use std::net::UdpSocket;

use viaduct_kernel::nft::Nft;
use viaduct_plan::{
    GROUP,
    nft::{Change, Family, Key, Ruleset, diff},
};

use crate::{
    examples::filter_of,
    support::{assert_equal, converge, in_netns, ip, name},
};

/// A network, with what is written beside it.
fn beside(more: &str) -> Ruleset {
    filter_of(&format!(
        "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
         [networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.1.0.0/24\", \"fd01::/64\"]\n\
         [guests.web]\n[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"10.1.0.2\", \"fd01::2\"]\n{more}"
    ))
}

const VNET: &str = "[vnets.red]\nid = \"97\"\n";
const PEER: &str = "peers = [\"b\"]\n\
                    [peers.b]\nendpoint = \"192.0.2.1:1798\"\nkey = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"\n";

/// Hosts that differ in what they have at all.
fn hosts() -> Vec<Ruleset> {
    vec![
        beside(""),
        beside(VNET),
        beside(&format!("{VNET}port = \"eth1\"\n{PEER}")),
        beside(&format!("{VNET}port = \"eth1\"\n[vnets.blue]\nid = \"98\"\nport = \"eth2\"\n{PEER}")),
        beside(&format!("{VNET}security = \"none\"\n{PEER}")),
        beside("[networks.out]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\"]\n"),
        filter_of(include_str!("../../../../examples/openvz/viaduct.toml")),
        filter_of(include_str!("../../../../examples/hetzner/viaduct.toml")),
        filter_of(include_str!("../../../../examples/dedicated-xen/viaduct.toml")),
    ]
}

/// Chains at devices want these to be there.
fn add_devices() {
    for device in ["eth0", "eth1", "eth2"] {
        ip(&format!("link add {device} type veth peer name of-{device}"));
    }
}

/// Whether a table is made anew.
fn is_anew(changes: &[Change], family: Family) -> bool {
    changes.iter().any(|change| matches!(change, Change::DeleteTable(of) if *of == family))
}

#[test]
fn what_one_host_has_becomes_what_another_has() {
    in_netns(|| {
        add_devices();
        let (mut nft, hosts) = (Nft::open().unwrap(), hosts());
        for (from, before) in hosts.iter().enumerate() {
            for (to, after) in hosts.iter().enumerate() {
                assert_equal(&converge(&mut nft, before), before);
                let changes = diff(before, after);
                for family in [Family::Inet, Family::Bridge] {
                    let stays = before.tables.contains_key(&family) && after.tables.contains_key(&family);
                    assert!(!stays || !is_anew(&changes, family), "{} from {from} to {to}", family.word());
                }
                nft.commit(&changes).unwrap_or_else(|error| panic!("from {from} to {to}: {error}"));
                assert_equal(&nft.read().unwrap(), after);
            }
        }
    });
}

#[test]
fn what_was_dropped_before_the_first_vnet_and_port_is_still_counted_after() {
    in_netns(|| {
        add_devices();
        // A device of ours that no guest has: whatever comes by it is dropped, in either family.
        ip("link add inside type veth peer name outside");
        ip(&format!("link set inside group {GROUP} address 02:00:00:00:00:01 up"));
        ip("link set outside up");
        ip("address add 10.9.0.1/24 dev outside");
        ip("address add fd09::1/64 dev outside nodad");
        ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:01 dev outside");
        ip("neighbour add fd09::2 lladdr 02:00:00:00:00:01 dev outside");
        let sockets = [("10.9.0.1:0", "10.9.0.2:9"), ("[fd09::1]:0", "[fd09::2]:9")]
            .map(|(from, to)| (UdpSocket::bind(from).unwrap(), to));
        let send = || {
            for (socket, to) in &sockets {
                socket.send_to(&[0; 100], to).unwrap();
            }
        };
        let mut nft = Nft::open().unwrap();
        let dropped = |nft: &mut Nft| {
            let counters = nft.counters().unwrap();
            let inside = Key::new().name(&name("inside")).first;
            let ours =
                counters.iter().filter(|counter| counter.family == Family::Inet && counter.key == inside);
            ours.filter(|counter| counter.set == "drop_unknown").map(|counter| counter.packets).sum::<u64>()
        };
        let hosts = &hosts()[..5];
        converge(&mut nft, &hosts[0]);
        send();
        // What the kernel says of itself by a new link goes the same way.
        let mut before = dropped(&mut nft);
        assert!(before >= 2, "{before}");
        for host in hosts.iter().chain(hosts.iter().rev()) {
            assert_equal(&converge(&mut nft, host), host);
            let kept = dropped(&mut nft);
            assert!(kept >= before, "{kept} of {before} are left");
            send();
            let more = dropped(&mut nft);
            assert!(more >= kept + 2, "{more} after {kept}");
            before = more;
        }
    });
}
