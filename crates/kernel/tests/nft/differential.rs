//! Our codec against nft itself: the text of a ruleset loaded by `nft -f`, and the same ruleset committed by us, must
//! read the same; and nft must be able to show what we committed.

use viaduct_kernel::nft::Nft;
use viaduct_plan::nft::{
    ChainKind, Const, Expr, Family, Hook, Key, NatKind, NfProto, Rule, Ruleset, Selector as S, SetDef,
    Statement as St, Table, Type, Value, ValueType, Verdict,
};

use crate::support::{
    addr, assert_equal, base, chain, converge, dynamic, in_netns, ip, mac, member, name, nft, on_device,
    rule, ruleset, set, table, value,
};

fn v4() -> St {
    St::Is(S::NfProto, Const::u8(2, "ipv4"))
}

fn v6() -> St {
    St::Is(S::NfProto, Const::u8(10, "ipv6"))
}

fn proto(number: u8, word: &str) -> St {
    St::Is(S::L4Proto, Const::u8(number, word))
}

fn drop() -> St {
    St::Verdict(Verdict::Drop)
}

fn accept() -> St {
    St::Verdict(Verdict::Accept)
}

fn four(text: &str) -> Const {
    Const::v4(text.parse().unwrap())
}

fn six(text: &str) -> Const {
    Const::v6(text.parse().unwrap())
}

fn inet() -> Table {
    use Type::{Ether, IfName, Ipv4, Ipv6, Port, Proto};
    let forwards4 = SetDef::map(&[Ipv4, Proto, Port], ValueType::Fields(vec![Ipv4, Port]));
    let forwards6 = SetDef::map(&[Ipv6, Proto, Port], ValueType::Fields(vec![Ipv6, Port]));
    let eth = |n: u8| Key::new().name(&name(&format!("eth{n}")));
    let ports = || "80-90".parse().unwrap();
    let sets = [
        (
            "m_exact4",
            set(
                forwards4.clone(),
                (0..50).map(|n| {
                    (
                        Key::new().ip(addr(&format!("192.0.2.{n}"))).protocol(6).port(80),
                        value(Key::new().ip(addr(&format!("10.0.0.{n}"))).port(8080)),
                    )
                }),
            ),
        ),
        (
            "m_exact6",
            set(
                forwards6.clone(),
                [(
                    Key::new().ip(addr("2001:db8::1")).protocol(17).port(53),
                    value(Key::new().ip(addr("2001:db8::2")).port(5353)),
                )],
            ),
        ),
        (
            "m_ranges4",
            set(
                forwards4.ranges(),
                [
                    (
                        Key::new().prefix("192.0.2.0/24".parse().unwrap()).protocol(6).ports(ports()),
                        value(Key::new().ip(addr("10.0.0.1")).port(8080)),
                    ),
                    (
                        Key::new().ip(addr("198.51.100.1")).protocol(17).port(53),
                        value(Key::new().ip(addr("10.0.0.2")).port(53)),
                    ),
                ],
            ),
        ),
        (
            "m_ranges6",
            set(
                forwards6.ranges(),
                [(
                    Key::new().prefix("2001:db8::/64".parse().unwrap()).protocol(6).ports(ports()),
                    value(Key::new().ip(addr("2001:db8::2")).port(8080)),
                )],
            ),
        ),
        (
            "m_source4",
            set(
                SetDef::map(&[Ipv4], ValueType::Fields(vec![Ipv4])),
                [(Key::new().ip(addr("10.0.0.5")), value(Key::new().ip(addr("192.0.2.5"))))],
            ),
        ),
        (
            "m_source6",
            set(
                SetDef::map(&[Ipv6], ValueType::Fields(vec![Ipv6])),
                [(Key::new().ip(addr("fd00::5")), value(Key::new().ip(addr("2001:db8::5"))))],
            ),
        ),
        ("s_own4", set(SetDef::set(&[IfName, Ipv4]), [member(eth(0).ip(addr("10.0.0.1")))])),
        (
            "s_own6",
            set(
                SetDef::set(&[IfName, Ipv6]).ranges(),
                [
                    member(eth(0).prefix("2001:db8::/64".parse().unwrap())),
                    member(eth(1).ip(addr("2001:db8:1::1"))),
                ],
            ),
        ),
        (
            "s_own4_ranges",
            set(
                SetDef::set(&[IfName, Ipv4]).ranges(),
                [member(eth(0).prefix("10.0.0.0/9".parse().unwrap())), member(eth(1).ip(addr("10.0.0.1")))],
            ),
        ),
        ("s_names", set(SetDef::set(&[IfName]), (0..20).map(|n| member(eth(n))))),
        ("s_macs", set(SetDef::set(&[Ether]), [member(Key::new().mac(mac(7)))])),
        ("s_addresses4", set(SetDef::set(&[Ipv4]), [member(Key::new().ip(addr("10.1.2.3")))])),
        ("s_addresses6", set(SetDef::set(&[Ipv6]), [member(Key::new().ip(addr("2001:db8::9")))])),
        (
            "s_protos",
            set(SetDef::set(&[Proto]), [1, 6, 17, 58, 132, 99].map(|n| member(Key::new().protocol(n)))),
        ),
        ("s_ports", set(SetDef::set(&[Port]), [22, 80, 65535].map(|n| member(Key::new().port(n))))),
        (
            "v_ports",
            set(
                SetDef::map(&[IfName], ValueType::Verdict),
                [
                    (eth(0), Value::Verdict(Verdict::Jump("c_other".to_owned()))),
                    (eth(1), Value::Verdict(Verdict::Goto("c_other".to_owned()))),
                    (eth(2), Value::Verdict(Verdict::Drop)),
                    (eth(3), Value::Verdict(Verdict::Return)),
                    (eth(4), Value::Verdict(Verdict::Accept)),
                    (eth(5), Value::Verdict(Verdict::Continue)),
                ],
            ),
        ),
        (
            "v_pairs",
            set(
                SetDef::map(&[IfName, IfName], ValueType::Verdict),
                [(eth(0).name(&name("eth1")), Value::Verdict(Verdict::Accept))],
            ),
        ),
        ("d_drops", dynamic(SetDef::set(&[IfName]), 65536)),
        ("d_pairs", dynamic(SetDef::set(&[IfName, Ipv4]), 1000)),
    ];
    let forward = |key, map, family, port| St::Translate { kind: NatKind::Dnat, family, key, map, port };
    let source = |key, map, family| St::Translate { kind: NatKind::Snat, family, key, map, port: false };
    let to4 = || vec![S::IpDaddr, S::L4Proto, S::ThDport];
    let to6 = || vec![S::Ip6Daddr, S::L4Proto, S::ThDport];
    let chains = [
        ("c_other", chain(None, [rule([St::Counter, St::Verdict(Verdict::Return)])])),
        (
            "c_dnat",
            chain(
                base(ChainKind::Nat, Hook::Prerouting, -100),
                [
                    rule([v4(), proto(6, "tcp"), forward(to4(), "m_exact4", NfProto::V4, true)]),
                    rule([v6(), proto(17, "udp"), forward(to6(), "m_exact6", NfProto::V6, true)]),
                    rule([v4(), proto(6, "tcp"), forward(to4(), "m_ranges4", NfProto::V4, true)]),
                    rule([v6(), proto(6, "tcp"), forward(to6(), "m_ranges6", NfProto::V6, true)]),
                ],
            ),
        ),
        (
            "c_snat",
            chain(
                base(ChainKind::Nat, Hook::Postrouting, 100),
                [
                    rule([v4(), source(vec![S::IpSaddr], "m_source4", NfProto::V4)]),
                    rule([v6(), source(vec![S::Ip6Saddr], "m_source6", NfProto::V6)]),
                    rule([St::Is(S::OifName, Const::name("eth0")), St::Masquerade]),
                ],
            ),
        ),
        ("c_mangle", chain(base(ChainKind::Filter, Hook::Prerouting, -150), inet_writes())),
        ("c_filter", chain(base(ChainKind::Filter, Hook::Forward, 0), inet_matches())),
        ("c_input", chain(base(ChainKind::Filter, Hook::Input, -7), [rule([accept()])])),
        ("c_output", chain(base(ChainKind::Filter, Hook::Output, 1234), [rule([accept()])])),
        (
            "c_raw",
            chain(
                base(ChainKind::Filter, Hook::Output, -300),
                [rule([
                    proto(17, "udp"),
                    St::Masked(
                        S::ThPorts,
                        Const::be32(0xfff8_fff8, "0xfff8fff8"),
                        Const::be32(0x0708_0708, "0x7080708"),
                    ),
                    St::NoTrack,
                ])],
            ),
        ),
    ];
    table(sets, chains)
}

fn inet_writes() -> Vec<Rule> {
    vec![
        rule([St::Write(S::Mark, Const::u32(0x5600_0001, "0x56000001"))]),
        rule([St::Write(S::PktType, Const::u8(0, "host"))]),
        rule([St::Write(S::CtLabel, Const::label(86)), accept()]),
        rule([St::Write(S::CtLabel, Const::label(3))]),
        rule([v4(), St::Any(S::Mark, Const::u32(1, "0x1")), accept()]),
    ]
}

fn inet_matches() -> Vec<Rule> {
    let eth0 = || Const::name("eth0");
    vec![
        rule([St::Any(S::CtState, Const::u32(6, "established,related")), accept()]),
        rule([St::Any(S::CtState, Const::u32(1, "invalid")), drop()]),
        rule([St::Any(S::CtStatus, Const::u32(0x20, "dnat")), St::Counter, accept()]),
        rule([St::Any(S::CtLabel, Const::label(3)), St::Any(S::CtLabel, Const::label(86)), accept()]),
        rule([St::Is(S::FibDaddrType, Const::u32(2, "local")), drop()]),
        rule([St::Not(S::FibDaddrType, Const::u32(1, "unicast")), drop()]),
        rule([St::Is(S::IifName, eth0()), St::Not(S::OifName, eth0()), accept()]),
        rule([St::Not(S::IifKind, Const::name("bridge")), St::Is(S::IifKind, Const::name("veth")), drop()]),
        rule([St::Is(S::IifGroup, Const::u32(86, "86")), St::Not(S::OifGroup, Const::u32(86, "86")), drop()]),
        rule([St::Is(S::Mark, Const::u32(0x5600_0001, "0x56000001")), accept()]),
        rule([St::Is(S::PktType, Const::u8(1, "broadcast")), drop()]),
        rule([St::Is(S::Protocol, Const::be16(0x800, "ip")), accept()]),
        rule([v4(), St::Is(S::IpSaddr, four("10.0.0.1")), drop()]),
        rule([v4(), St::Not(S::IpDaddr, four("10.0.0.1")), drop()]),
        rule([v4(), St::Masked(S::IpSaddr, four("255.240.0.0"), four("172.16.0.0")), drop()]),
        rule([v4(), St::Masked(S::IpDaddr, four("255.0.0.0"), four("127.0.0.0")), drop()]),
        rule([v4(), St::NotMasked(S::IpDaddr, four("255.0.0.0"), four("127.0.0.0")), accept()]),
        rule([v6(), St::Is(S::Ip6Saddr, six("::")), drop()]),
        rule([v6(), St::Masked(S::Ip6Saddr, six("ffc0::"), six("fe80::")), drop()]),
        rule([v6(), St::Masked(S::Ip6Daddr, six("ff00::"), six("ff00::")), drop()]),
        rule([v6(), St::Is(S::FragExists, Const::u8(1, "exists")), drop()]),
        rule([v6(), St::Masked(S::FragOffset, Const::be16(0xfff8, "0xfff8"), Const::be16(0, "0")), drop()]),
        rule([proto(6, "tcp"), St::Is(S::ThDport, Const::be16(22, "22")), accept()]),
        rule([proto(17, "udp"), St::Is(S::ThSport, Const::be16(53, "53")), accept()]),
        rule([v4(), proto(1, "icmp"), St::Is(S::IcmpType, Const::u8(8, "echo-request")), accept()]),
        rule([
            v6(),
            proto(58, "ipv6-icmp"),
            St::Is(S::Icmpv6Type, Const::u8(135, "nd-neighbor-solicit")),
            accept(),
        ]),
        rule([v4(), St::In(vec![S::IifName, S::IpSaddr], "s_own4"), accept()]),
        rule([v4(), St::NotIn(vec![S::IifName, S::IpSaddr], "s_own4_ranges"), drop()]),
        rule([v6(), St::In(vec![S::IifName, S::Ip6Saddr], "s_own6"), accept()]),
        rule([v6(), St::NotIn(vec![S::OifName, S::Ip6Daddr], "s_own6"), drop()]),
        rule([St::In(vec![S::IifName], "s_names"), accept()]),
        rule([St::NotIn(vec![S::IifName], "s_names"), drop()]),
        rule([v4(), St::In(vec![S::IpSaddr], "s_addresses4"), accept()]),
        rule([v6(), St::In(vec![S::Ip6Daddr], "s_addresses6"), accept()]),
        rule([St::In(vec![S::L4Proto], "s_protos"), St::In(vec![S::ThDport], "s_ports"), accept()]),
        rule([St::CountIn("d_drops", vec![S::IifName]), drop()]),
        rule([v4(), St::CountIn("d_pairs", vec![S::IifName, S::IpSaddr])]),
        rule([St::VerdictMap(vec![S::IifName], "v_ports")]),
        rule([St::VerdictMap(vec![S::IifName, S::OifName], "v_pairs")]),
        rule([St::Verdict(Verdict::Jump("c_other".to_owned()))]),
        rule([St::Counter, St::Verdict(Verdict::Continue)]),
        rule([St::Verdict(Verdict::Goto("c_other".to_owned()))]),
    ]
}

fn link_layer_sets() -> [(&'static str, viaduct_plan::nft::Set); 7] {
    use Type::{Ether, IfName, Ipv4, Ipv6};
    let a = || Key::new().name(&name("a"));
    [
        (
            "s_source4",
            set(SetDef::set(&[IfName, Ether, Ipv4]), [member(a().mac(mac(1)).ip(addr("10.0.0.1")))]),
        ),
        (
            "s_source6",
            set(SetDef::set(&[IfName, Ether, Ipv6]), [member(a().mac(mac(1)).ip(addr("fe80::1")))]),
        ),
        ("s_macs", set(SetDef::set(&[IfName, Ether]), [member(a().mac(mac(1)))])),
        (
            "s_arp",
            set(
                SetDef::set(&[Ether, Ipv4]).ranges(),
                [member(Key::new().mac(mac(1)).prefix("10.0.0.0/24".parse().unwrap()))],
            ),
        ),
        (
            "m_mac",
            set(
                SetDef::map(&[IfName], ValueType::Fields(vec![Ether])),
                [(a(), value(Key::new().mac(mac(2))))],
            ),
        ),
        (
            "m_mac4",
            set(
                SetDef::map(&[Ipv4], ValueType::Fields(vec![Ether])),
                [(Key::new().ip(addr("10.0.0.1")), value(Key::new().mac(mac(2))))],
            ),
        ),
        (
            "m_mac6",
            set(
                SetDef::map(&[Ipv6], ValueType::Fields(vec![Ether])),
                [(Key::new().ip(addr("fe80::1")), value(Key::new().mac(mac(2))))],
            ),
        ),
    ]
}

/// What tables of links have in common.
fn link_layer_rules(device: S) -> Vec<Rule> {
    let ip = || St::Is(S::EtherType, Const::be16(0x800, "ip"));
    let ip6 = || St::Is(S::EtherType, Const::be16(0x86dd, "ip6"));
    let arp = || St::Is(S::EtherType, Const::be16(0x806, "arp"));
    vec![
        rule([St::Is(S::EtherType, Const::be16(0x8100, "0x8100")), drop()]),
        rule([St::Is(S::EtherSaddr, Const::mac(mac(1))), drop()]),
        rule([St::Not(S::EtherDaddr, Const::mac(mac(1))), drop()]),
        rule([St::NotIn(vec![device, S::EtherSaddr], "s_macs"), St::Counter, drop()]),
        rule([ip(), St::In(vec![device, S::EtherSaddr, S::IpSaddr], "s_source4"), accept()]),
        rule([ip6(), St::In(vec![device, S::EtherSaddr, S::Ip6Saddr], "s_source6"), accept()]),
        rule([arp(), St::NotIn(vec![device, S::ArpSaddrEther, S::ArpSaddrIp], "s_source4"), drop()]),
        rule([arp(), St::In(vec![S::ArpSaddrEther, S::ArpSaddrIp], "s_arp"), accept()]),
        rule([
            arp(),
            St::Is(S::ArpOperation, Const::be16(1, "request")),
            St::Is(S::ArpDaddrIp, four("10.0.0.1")),
        ]),
        rule([St::WriteMapped(S::EtherSaddr, vec![device], "m_mac")]),
        rule([ip(), St::WriteMapped(S::EtherSaddr, vec![S::IpSaddr], "m_mac4")]),
        rule([ip6(), St::WriteMapped(S::EtherSaddr, vec![S::Ip6Saddr], "m_mac6")]),
        rule([arp(), St::WriteMapped(S::ArpSaddrEther, vec![S::ArpSaddrIp], "m_mac4")]),
        rule([St::Write(S::EtherDaddr, Const::mac(mac(3)))]),
        rule([
            ip6(),
            proto(58, "ipv6-icmp"),
            St::Is(S::Icmpv6Type, Const::u8(136, "nd-neighbor-advert")),
            St::Is(S::NaOption, Const::be16(0x0201, "0x0201")),
            drop(),
        ]),
        rule([ip(), proto(17, "udp"), St::Is(S::ThDport, Const::be16(67, "67")), drop()]),
        rule([ip6(), St::Is(S::FragExists, Const::u8(1, "exists")), drop()]),
        rule([ip6(), St::Masked(S::Ip6Daddr, six("ff00::"), six("ff00::")), drop()]),
        rule([
            ip(),
            St::Masked(S::IpFragOff, Const::be16(0x5fff, "0x5fff"), Const::be16(0, "0")),
            St::Is(S::IpLength, Const::be16(1500, "1500")),
            St::Write(S::IpFragOff, Const::be16(0x4000, "0x4000")),
        ]),
    ]
}

fn bridge() -> Table {
    let mut pre = link_layer_rules(S::IifName);
    pre.push(rule([St::Write(S::PktType, Const::u8(0, "host"))]));
    let chains = [
        ("c_pre", chain(base(ChainKind::Filter, Hook::Prerouting, -300), pre)),
        ("c_fwd", chain(base(ChainKind::Filter, Hook::Forward, -200), link_layer_rules(S::OifName))),
        ("c_post", chain(base(ChainKind::Filter, Hook::Postrouting, 300), link_layer_rules(S::OifName))),
    ];
    table(link_layer_sets(), chains)
}

fn netdev() -> Table {
    let chains = [
        ("c_in", chain(on_device(Hook::Ingress, "v0"), link_layer_rules(S::IifName))),
        ("c_eg", chain(on_device(Hook::Egress, "v0"), link_layer_rules(S::OifName))),
    ];
    table(link_layer_sets(), chains)
}

fn arp() -> Table {
    let rules = |device| {
        vec![
            rule([St::NotIn(vec![device, S::ArpSaddrEther, S::ArpSaddrIp], "s_source4"), drop()]),
            rule([
                St::Is(S::ArpOperation, Const::be16(2, "reply")),
                St::Is(S::ArpSaddrIp, four("10.0.0.1")),
                drop(),
            ]),
            rule([St::Is(S::ArpSaddrEther, Const::mac(mac(4))), St::Counter]),
        ]
    };
    let chains = [
        ("c_in", chain(base(ChainKind::Filter, Hook::Input, 0), rules(S::IifName))),
        ("c_out", chain(base(ChainKind::Filter, Hook::Output, 0), rules(S::OifName))),
    ];
    table(link_layer_sets(), chains)
}

fn all() -> Ruleset {
    ruleset([
        (Family::Inet, inet()),
        (Family::Arp, arp()),
        (Family::Bridge, bridge()),
        (Family::Netdev, netdev()),
    ])
}

/// Loads with nft and reads.
pub(crate) fn by_nft(desired: &Ruleset) -> Ruleset {
    let text = desired.to_string();
    in_netns(move || {
        ip("link add v0 type veth peer name eth0");
        nft(&["-f", "-"], &text);
        Nft::open().unwrap().read().unwrap()
    })
}

/// Commits, reads, and has nft show it, in both of its formats.
pub(crate) fn by_us(desired: &Ruleset) -> (Ruleset, String, String) {
    let desired = desired.clone();
    in_netns(move || {
        ip("link add v0 type veth peer name eth0");
        let observed = converge(&mut Nft::open().unwrap(), &desired);
        (observed, nft(&["list", "ruleset"], ""), nft(&["-j", "list", "ruleset"], ""))
    })
}

/// nft 1.0.6 adds two things which change nothing:
/// - in a concatenation with ranges it turns protocols, which are one byte, to network byte order;
/// - before Ethernet headers, where other families could have other headers, it makes sure that the device is one of
///   Ethernet, which our devices are.
pub(crate) fn without_additions(mut ruleset: Ruleset) -> Ruleset {
    for table in ruleset.tables.values_mut() {
        for rule in table.chains.values_mut().flat_map(|c| &mut c.rules) {
            rule.exprs.retain(|e| *e != Expr::Other("byteorder".to_owned()));
            // ARPHRD_ETHER
            let iiftype = [Expr::Other("meta".to_owned()), exact(vec![1, 0])];
            if let Some(at) = rule.exprs.windows(2).position(|pair| pair == iiftype) {
                rule.exprs.drain(at..at + 2);
            }
        }
    }
    ruleset
}

fn exact(data: Vec<u8>) -> Expr {
    Expr::Cmp { from: viaduct_plan::nft::Reg(0), op: viaduct_plan::nft::CmpOp::Eq, data }
}

#[test]
fn nft_means_the_same_by_our_text() {
    let desired = all();
    let (ours, ..) = by_us(&desired);
    let theirs = without_additions(by_nft(&desired));
    assert_eq!(ours, desired);
    assert_equal(&theirs, &desired);
}

/// nft shows what we committed as it shows what it loaded itself: types, byte orders, counters and all. But not in
/// family netdev: without its check that the device is one of Ethernet it shows the bytes of headers, not their names.
#[test]
fn nft_shows_ours_as_its_own() {
    let mut desired = all();
    desired.tables.remove(&Family::Netdev);
    let (_, text, json) = by_us(&desired);
    let input = desired.to_string();
    let (their_text, their_json) = in_netns(move || {
        ip("link add v0 type veth peer name eth0");
        nft(&["-f", "-"], &input);
        (nft(&["list", "ruleset"], ""), nft(&["-j", "list", "ruleset"], ""))
    });
    // Elements of hash sets come in any order, and sets and rules in the order of their making.
    let sorted = |text: &str| {
        let text = text.replace(['{', '}'], "\n").replace("elements =", "\n");
        let mut lines: Vec<String> =
            text.split(['\n', ',']).map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect();
        lines.sort();
        lines
    };
    let (ours, theirs) = (sorted(&text), sorted(&their_text));
    assert_eq!(ours.len(), theirs.len(), "{text}\n{their_text}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    for word in ["concat", "element", "counter", "dnat", "vmap"] {
        assert_eq!(json.matches(word).count(), their_json.matches(word).count(), "{word}");
    }
    assert!(text.contains("iifname . ether saddr . ip saddr @s_source4 accept"), "{text}");
}

/// What nft 1.0.6 has no words for, it still shows.
#[test]
fn nft_shows_what_it_could_not_have_loaded() {
    let rules = [
        rule([St::In(vec![S::IifName, S::EtherSaddr, S::NdTarget], "s_source6"), drop()]),
        rule([St::Masked(S::NdTarget, six("ffc0::"), six("fe80::")), drop()]),
        rule([St::WriteMapped(S::NaTargetLinkLayer, vec![S::NdTarget], "m_mac6")]),
    ];
    let pre = chain(base(ChainKind::Filter, Hook::Prerouting, 0), rules);
    let desired = ruleset([(Family::Bridge, table(link_layer_sets(), [("c_pre", pre)]))]);
    let (ours, text, _) = by_us(&desired);
    assert_eq!(ours, desired);
    assert!(text.contains("iifname . ether saddr . @th,64,128 @s_source6 drop"), "{text}");
}
