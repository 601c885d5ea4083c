//! What the doctor says of a packet at another program's filter is what the kernel does with it: both are asked, for each
//! port and each filter.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use support::{World, host};
use viaduct_doctor::filter::{Cast, Fate, Load, Packet, Point, State, UDP};
use viaduct_kernel::Kernel;

const PORTS: [u16; 8] = [22, 52, 53, 54, 1024, 1798, 1807, 65_535];

/// Says what came to which port.
const EAR: &str = "import select, socket, sys
sockets = []
for family in (socket.AF_INET, socket.AF_INET6):
    for port in map(int, sys.argv[1:]):
        s = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind(('', port)); sockets.append(s)
print('ready', flush=True)
while True:
    for s in select.select(sockets, [], [])[0]:
        print(s.recv(100).decode(), s.getsockname()[1], 4 if s.family == socket.AF_INET else 6, flush=True)
";

/// Sends to each port; the last one says that all is over.
const MOUTH: &str = "import socket, sys
for family, to in ((socket.AF_INET, '203.0.113.2'), (socket.AF_INET6, '2001:db8:28::2')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    for port in map(int, sys.argv[2:]): s.sendto(sys.argv[1].encode(), (to, port))
";

const FILTERS: &[&str] = &[
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport 53 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport != 53 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport 53-1798 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport != 53-1798 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport <= 53 accept; udp dport > 1798 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; udp dport < 53 accept; udp dport >= 1798 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; udp dport { 53, 1024-1806, 65535 } drop; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; udp dport != { 53, 1024-1806, 65535 } drop; }; }'",
    "nft 'table inet t { set s { type inet_service; elements = { 22, 1807 }; }; chain c { type filter hook input priority 0; policy drop; th dport @s accept; }; }'",
    "nft 'table inet t { set s { type inet_service; flags interval; elements = { 0-22, 1024-65535 }; }; chain c { type filter hook input priority 0; policy drop; th dport @s accept; }; }'",
    "nft 'table inet t { set s { type inet_proto . inet_service; flags interval; elements = { tcp . 1-1000, udp . 53-54 }; }; chain c { type filter hook input priority 0; policy drop; meta l4proto . th dport @s accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; iifname . udp dport { eth0 . 53, lo . 54, eth1 . 22 } accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; ip saddr . udp dport { 203.0.113.1 . 53, 203.0.113.2 . 54 } accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; udp dport vmap { 53 : drop, 54-1024 : goto other, 1798 : accept }; udp dport 1798 drop; }; chain other { udp dport 1024 drop; }; }'",
    "nft 'table inet t { map m { type inet_service : verdict; elements = { 53 : accept, 1807 : accept, * : drop }; }; chain c { type filter hook input priority 0; udp dport vmap @m; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; ip saddr 203.0.113.0-203.0.113.1 udp dport 53 accept; ip6 saddr { 2001:db8:28::/64, fe80::/10 } udp dport 54 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; iif eth0 meta nfproto ipv4 udp dport 53 accept; iif { lo, eth0 } meta protocol ip6 udp dport 54 accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; ct state new fib daddr type local udp dport 53 accept; ct state { established, related } accept; udp dport 54 fib daddr type { broadcast, multicast } accept; }; }'",
    "nft 'table inet t { chain c { type filter hook input priority 0; policy drop; ip saddr 203.0.113.1 ip daddr 203.0.113.2 udp dport 53 accept; ip saddr 203.0.113.1 ip daddr 203.0.113.3 accept; udp sport 9 udp dport 67 accept; udp sport 0-65535 udp dport 54 accept; }; }'",
    "nft 'table ip t { chain c { type filter hook input priority 0; policy drop; ip protocol udp th dport 53 accept; }; }; table ip6 t { chain c { type filter hook input priority 0; policy drop; ip6 nexthdr udp th dport 54 accept; meta l4proto { 58 } accept; }; }'",
    "for t in iptables-nft ip6tables-nft; do $t -A INPUT -p udp --dport 53:1024 -j ACCEPT; $t -A INPUT -p tcp -j ACCEPT; $t -P INPUT DROP; done; ip6tables-nft -A INPUT -p icmpv6 -j ACCEPT",
    "for t in iptables-nft ip6tables-nft; do $t -A INPUT -p udp ! --dport 53:1024 -j DROP; done",
    "for t in iptables-nft ip6tables-nft; do $t -A INPUT -p udp -m multiport --dports 22,53:54,1807 -j DROP; done",
    "for t in iptables-nft ip6tables-nft; do $t -A INPUT -p udp -m multiport ! --dports 22,53:54,1807 -j DROP; done",
    "for t in iptables-nft ip6tables-nft; do $t -N S; $t -A INPUT -j S; $t -A INPUT -p udp -m udp --dport 53 -j DROP; $t -A S -m addrtype --dst-type LOCAL -p udp --dport 54 -j REJECT; $t -A S -m addrtype ! --dst-type LOCAL -j DROP; $t -A S -m conntrack --ctstate INVALID -j DROP; done",
    "for t in iptables-legacy ip6tables-legacy; do $t -A INPUT -p udp --dport 53:1024 -j ACCEPT; $t -A INPUT -p tcp -j ACCEPT; $t -P INPUT DROP; done; ip6tables-legacy -A INPUT -p icmpv6 --icmpv6-type 136 -j ACCEPT; ip6tables-legacy -A INPUT -p icmpv6 --icmpv6-type 135 -m hl --hl-eq 255 -j ACCEPT",
    "for t in iptables-legacy ip6tables-legacy; do $t -A INPUT -p udp ! --dport 53: -j DROP; $t -A INPUT -p udp -m multiport ! --dports 0:1024,65535 -j DROP; done",
    "for t in iptables-legacy ip6tables-legacy; do $t -A INPUT -m addrtype --dst-type BROADCAST,MULTICAST -j DROP; $t -A INPUT -i eth+ -p udp -m multiport --dports 22,53:54,1807 -m comment --comment 'two words' -j REJECT; done",
];

fn packet(ipv4: bool, port: u16) -> Packet {
    let address = |v4: &str, v6: &str| Some(if ipv4 { v4 } else { v6 }.parse().unwrap());
    Packet {
        input: Some("eth0".to_owned()),
        output: Some(String::new()),
        ipv4,
        source: address("203.0.113.1", "2001:db8:28::1"),
        destination: address("203.0.113.2", "2001:db8:28::2"),
        cast: Cast::Local,
        load: Load::To { protocol: UDP, port: Some(port) },
        state: State::New,
        translated: false,
    }
}

/// Whether all filters of the host let it pass; nothing that is not understood.
fn passes(kernel: &mut Kernel, ipv4: bool, port: u16) -> bool {
    let facts = kernel.facts([]).unwrap();
    let bases = facts.tables.iter().flat_map(|table| {
        let input = table.bases().filter(|(_, hook)| hook.point == Point::Input);
        input.map(move |(base, _)| table.fate(base, &packet(ipv4, port)))
    });
    let fates: Vec<Fate> = bases.collect();
    assert!(!fates.contains(&Fate::LostMostly), "something is not understood: {facts:#?}");
    !fates.contains(&Fate::Lost)
}

fn ports() -> String {
    PORTS.map(|port| port.to_string()).join(" ")
}

/// What came of what was sent under a name.
fn heard(world: &World, name: &str) -> BTreeMap<(bool, u16), ()> {
    world.sh(&format!("ip netns exec outside python3 /run/mouth.py {name} {}", ports()));
    thread::sleep(Duration::from_millis(300));
    let said = world.read("/run/heard");
    let lines = said.lines().filter_map(|line| line.strip_prefix(&format!("{name} ")));
    let port = |line: &str| {
        let (port, family) = line.split_once(' ').unwrap();
        ((family == "4", port.parse().unwrap()), ())
    };
    lines.map(port).collect()
}

#[test]
fn the_doctor_says_what_the_kernel_does() {
    host(|world| {
        world.connect_outside();
        // Who is where is known from the beginning, and is not asked again.
        world.sh("mac=$(ip -n outside -br link show eth0 | awk '{print $3}'); \
             for a in 203.0.113.1 2001:db8:28::1; do ip neighbour replace $a lladdr $mac dev eth0 nud permanent; done; \
             for a in 203.0.113.2 2001:db8:28::2; do ip -n outside neighbour replace $a lladdr 02:00:00:00:00:02 dev eth0 nud permanent; done");
        world.write("/run/ear.py", EAR);
        world.write("/run/mouth.py", MOUTH);
        world.write("/run/heard", "");
        let line = format!("exec python3 /run/ear.py {} >/run/heard", ports());
        let mut ear = std::process::Command::new("sh").args(["-c", &line]).spawn().unwrap();
        world.soon("the ear is open", || world.read("/run/heard").contains("ready"));
        assert_eq!(heard(world, "nothing").len(), PORTS.len() * 2, "without a filter everything comes");
        let mut kernel = Kernel::new(Path::new("/run/model")).unwrap();
        for (number, filter) in FILTERS.iter().enumerate() {
            world.sh(filter);
            let heard = heard(world, &format!("filter{number}"));
            let mut kinds = [0, 0];
            for ipv4 in [true, false] {
                for port in PORTS {
                    let comes = heard.contains_key(&(ipv4, port));
                    kinds[usize::from(comes)] += 1;
                    let says = passes(&mut kernel, ipv4, port);
                    let version = if ipv4 { 4 } else { 6 };
                    assert_eq!(says, comes, "IPv{version}, port {port}: {filter}");
                }
            }
            assert!(kinds[0] > 0 && kinds[1] > 0, "it lets nothing in, or everything: {filter}");
            world.sh("nft flush ruleset; for t in iptables-legacy ip6tables-legacy; do \
                 $t -P INPUT ACCEPT; $t -F; done 2>/dev/null; true");
        }
        ear.kill().unwrap();
        ear.wait().unwrap();
    });
}
