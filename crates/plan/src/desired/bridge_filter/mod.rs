//! Table `bridge viaduct`: what ports of bridges may send (anti-spoofing, without br_netfilter), and the frames
//! between guests that have to pass the host's IP filter.
//!
//! A bridge decides by MAC only, and the bridge family has no connection tracking on every kernel. So where not every
//! guest may talk to every other one, a unicast IP frame from guest to guest is turned to the bridge's own MAC before
//! the bridge looks at it: the host routes it back out by the same bridge, and table inet judges it like any other
//! flow. ARP and neighbour discovery stay with the guests.

mod between;
mod outside;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viaduct_model::{Mode, Security, Spoofing, Vnet};
use viaduct_types::{IfName, PortRange};

use super::{
    context::{Context, Port, bridge_mac, bridge_of, uplink_vlans},
    elements::{Builder, words::*},
    inet_filter::{add_own_addresses, from_unspecified, guard_of},
    links::{GATEWAY_V6, sends_back},
    vnets,
};
use crate::nft::{Const, Family, Hook, Key, Selector as S, Statement as St, Table, Type as T, Verdict};
use between::turns;
use outside::into_held;

const GUARD: i32 = -300;
const FORWARD: i32 = -200;
const CLAMP: i32 = 0;

/// IP's and TCP's headers without options (RFC 6691, section 2).
const HEADERS_V4: u32 = 20 + 20;
const HEADERS_V6: u32 = 40 + 20;

const IP: (u16, &str) = (0x0800, "ip");
const ARP: (u16, &str) = (0x0806, "arp");
const IP6: (u16, &str) = (0x86dd, "ip6");
const RARP: (u16, &str) = (0x8035, "0x8035");

/// What a frame with a VLAN's tag has for its type: 802.1Q, 802.1ad, and what was in use for the outer of two before that.
const TAGS: [(u16, &str); 4] =
    [(0x8100, "8021q"), (0x88a8, "8021ad"), (0x9100, "0x9100"), (0x9200, "0x9200")];

/// So many devices that lead to other hosts are compared one by one before anything is looked up.
const FEW: usize = 4;

/// The bit of the packet mark that lets a frame past the guard of an uplink: the file lets this NIC send anything.
pub(super) const FREE_MARK: u32 = 0x5600_0000;

pub(super) fn table(context: &Context<'_>) -> Option<(Family, Table)> {
    if !context.observed.features.nft_bridge
        || context.config.networks.values().all(|n| bridge_of(n).is_none()) && context.config.vnets.is_empty()
    {
        return None;
    }
    let mut table = Builder::default();
    declare(context, &mut table);
    fill(context, &mut table);
    add_guard(context, &mut table);
    if !context.config.vnets.is_empty() {
        table.chain("from_port_moved", vec![rule(vec![], dropped("drop_moved"))]);
        add_prepared(&mut table);
        add_own(context, &mut table);
    }
    add_ipv6_guard(&mut table);
    if context.config.networks.values().any(|n| matches!(n.mode, Mode::Bridged { vlans: Some(_), .. })) {
        add_trunk_guard(&mut table);
    }
    between::add(context, &mut table);
    if plain(context).next().is_some() {
        add_clamp(&mut table);
    }
    Some((Family::Bridge, table.finish()))
}

fn declare(context: &Context<'_>, table: &mut Builder) {
    table.verdicts("ports", &[T::IfName]);
    table.set("source4", &[T::IfName, T::Ether, T::Ipv4]);
    table.set("source6", &[T::IfName, T::Ether, T::Ipv6]);
    table.set("port_mac", &[T::IfName, T::Ether]);
    // Link-local addresses that are known to be somebody's: the gateway's, and those made of other NICs' MACs.
    table.set("taken_link_local", &[T::Ipv6]);
    if turns(context) {
        table.map("to_bridge", &[T::IfName], &[T::Ether]);
        table.set("redirected", &[T::IfName]);
        table.set("same_port", &[T::IfName, T::IfName]);
    }
    table.set("untagged", &[T::IfName]);
    for counter in [
        "drop_unknown",
        "drop_mac",
        "drop_address",
        "drop_arp",
        "drop_nd",
        "drop_ra",
        "drop_dhcp",
        "drop_fragment",
        "drop_type",
        "drop_vlan",
    ] {
        table.counted(counter);
    }
    outside::declare(context, table);
    if plain(context).next().is_some() {
        // Ports are of two bytes, too.
        table.map("segment4", &[T::IfName], &[T::Port]);
        table.map("segment6", &[T::IfName], &[T::Port]);
        table.ranges("too_long", &[T::IfName, T::Port]);
    }
    if !context.config.vnets.is_empty() {
        table.counted("drop_moved");
        table.counted("drop_prepared");
        table.set("ways_out", &[T::IfName]);
        table.set("announcer", &[T::IfName, T::Ether]);
        table.set("announced4", &[T::IfName, T::Ether, T::Ipv4, T::Ipv4]);
        table.set("announced6", &[T::IfName, T::Ether, T::Ipv6]);
    }
}

fn fill(context: &Context<'_>, table: &mut Builder) {
    table.insert("taken_link_local", Key::new().ip(IpAddr::V6(GATEWAY_V6)));
    for network in context.config.networks.values() {
        if let Mode::Vnet { bridge, .. } = &network.mode {
            let own = vnets::speaks_as(&context.config.host, bridge);
            table.insert("taken_link_local", Key::new().ip(IpAddr::V6(own)));
        }
    }
    for (_, nic) in context.config.nics() {
        if context.config.networks.get(&nic.network).and_then(bridge_of).is_some() {
            table.insert("taken_link_local", Key::new().ip(IpAddr::V6(nic.mac.link_local())));
        }
    }
    for device in vnets::ways_out(context) {
        table.insert("ways_out", Key::new().name(&device));
    }
    // What comes from other hosts was looked at there, and its MAC by what carries it.
    for device in context.config.vnets.values().flat_map(Vnet::interfaces) {
        table.judge("ports", Key::new().name(&device), Verdict::Accept);
    }
    for (vnet, device) in plain(context) {
        for (map, headers) in [("segment4", HEADERS_V4), ("segment6", HEADERS_V6)] {
            let most = vnets::carried(context, vnet).saturating_sub(headers);
            let most = u16::try_from(most).unwrap_or(u16::MAX);
            table.relate(map, Key::new().name(&device), Key::new().port(most));
        }
        if let Some(lengths) = too_long(context) {
            table.insert("too_long", Key::new().name(&device).ports(lengths));
        }
    }
    outside::fill(context, table);
    for port in &context.ports {
        let Some(bridge) = bridge_of(port.network) else { continue };
        let device = || Key::new().name(port.device());
        // Its MAC is somebody else's by now.
        if vnets::has_moved_away(context, port) {
            table.judge("ports", device(), Verdict::Goto("from_port_moved".to_owned()));
            continue;
        }
        if vnets::is_prepared(context, port) {
            table.judge("ports", device(), Verdict::Goto("from_port_prepared".to_owned()));
            let own = || device().mac(port.nic.mac);
            table.insert("announcer", own());
            table.insert("announced6", own().ip(IpAddr::V6(port.nic.mac.link_local())));
            for address in port.nic.addresses.iter().map(|net| net.addr()) {
                match address {
                    IpAddr::V4(_) => table.insert("announced4", own().ip(address).ip(address)),
                    IpAddr::V6(_) => table.insert("announced6", own().ip(address)),
                }
            }
            continue;
        }
        table.judge("ports", device(), bridge_guard_of(port));
        if port.nic.spoofing != Spoofing::Mac {
            add_own_addresses(port, table, true);
        }
        if sends_back(port.guest, port.network) {
            table.insert("same_port", device().name(port.device()));
        }
        if port.nic.trunk.is_empty() {
            table.insert("untagged", device());
        }
        if context.is_redirected(&port.nic.network, port.network) {
            table.insert("redirected", device());
            table.relate("to_bridge", device(), Key::new().mac(bridge_mac(bridge)));
        }
    }
}

/// A port whose guest is still elsewhere: nothing passes but the guest's own word that it has arrived, which the process
/// that carries the vnet waits for.
fn add_prepared(table: &mut Builder) {
    let own = |selector| vec![S::IifName, S::EtherSaddr, selector];
    table.chain(
        "from_port_prepared",
        vec![
            // What QEMU and Xen send (RFC 903).
            vec![of_type(RARP), St::In(vec![S::IifName, S::EtherSaddr], "announcer"), accept()],
            // RFC 5227, section 3: sender and target are the same.
            vec![
                of_type(ARP),
                St::In(vec![S::IifName, S::EtherSaddr, S::ArpSaddrIp, S::ArpDaddrIp], "announced4"),
                accept(),
            ],
            // RFC 4861, section 7.2.6: to all nodes.
            vec![
                of_type(IP6),
                icmpv6(),
                icmpv6_type(136, "nd-neighbor-advert"),
                St::Is(S::Ip6Daddr, Const::v6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))),
                St::In(own(S::NdTarget), "announced6"),
                accept(),
            ],
            rule(vec![], dropped("drop_prepared")),
        ],
    );
}

/// What a host says to its guests in a vnet about their configuration is for none of other hosts, which do so themselves, nor
/// for who is outside.
fn add_own(context: &Context<'_>, table: &mut Builder) {
    let leaves = || St::In(vec![S::OifName], "ways_out");
    let mut rules = vec![
        vec![leaves(), of_type(IP), udp(), sport(67), drop()],
        vec![leaves(), of_type(IP6), udp(), sport(547), drop()],
        vec![leaves(), of_type(IP6), icmpv6(), icmpv6_type(134, "nd-router-advert"), drop()],
    ];
    rules.splice(0..0, into_held(context));
    table.base("own_words", Hook::Output, 0, rules);
}

fn of_type((number, word): (u16, &str)) -> St {
    ethertype(number, word)
}

/// What is behind the one tag of a frame.
fn of_inner_type((number, word): (u16, &str)) -> St {
    St::Is(S::VlanType, Const::be16(number, word))
}

/// The tag's number is this one, which is 0 when the tag has a priority only.
fn tag_is(vlan: u16) -> St {
    St::Masked(S::VlanTag, Const::be16(0x0fff, "0x0fff"), Const::be16(vlan, &vlan.to_string()))
}

fn dropped(counter: &'static str) -> [St; 2] {
    [St::CountIn(counter, vec![S::IifName]), drop()]
}

/// Lets a frame leave an uplink with whatever MAC it has.
fn free() -> St {
    St::Write(S::Mark, Const::u32(FREE_MARK, &format!("{FREE_MARK:#x}")))
}

/// The devices by which the kernel carries vnets that nothing protects.
fn plain<'a>(context: &Context<'a>) -> impl Iterator<Item = (&'a Vnet, IfName)> {
    let plain = context.config.vnets.values().filter(|vnet| vnet.security == Security::None);
    plain.flat_map(|vnet| vnets::plain_devices(vnet).map(move |(device, _)| (vnet, device)))
}

/// How long packets are that the kernel carries to no host in VXLAN: there is one way to each for all vnets, which takes no more than the
/// one that carries most.
fn too_long(context: &Context<'_>) -> Option<PortRange> {
    let most = plain(context).map(|(vnet, _)| vnets::carried(context, vnet)).max()?;
    PortRange::new(u16::try_from(most + 1).ok()?, u16::MAX).ok()
}

/// Who opens a connection by TCP to another host of a vnet that nothing protects says no larger a segment than gets there, also
/// when the machine has not heard of the vnet's MTU. The same as the process that carries the other vnets does.
///
/// And who sends packets of IPv4 that are too long and may be cut, or has cut one into fragments that are, is answered as if it had
/// forbidden that: the kernel's VXLAN answers those only (net/ipv4/ip_tunnel_core.c, `iptunnel_pmtud_check_icmp`), and loses the
/// others. Linux cuts shorter from then on. What is written here goes no further than to who is answered, but for super-frames, whose
/// segments are as the kernel has cut them.
fn add_clamp(table: &mut Builder) {
    let opens = || vec![tcp(), St::Any(S::TcpFlags, Const::u8(0x02, "syn"))];
    let lowered = |kind, map| {
        [of_type(kind)].into_iter().chain(opens()).chain([St::WriteMapped(
            S::TcpMaxSegment,
            vec![S::OifName],
            map,
        )])
    };
    // Neither DF nor an offset: whole ones, and first fragments.
    let may_be_cut = St::Masked(S::IpFragOff, Const::be16(0x5fff, "0x5fff"), Const::be16(0, "0"));
    let forbidden = vec![
        of_type(IP),
        may_be_cut,
        St::In(vec![S::OifName, S::IpLength], "too_long"),
        St::Write(S::IpFragOff, Const::be16(0x4000, "0x4000")),
    ];
    let mut rules = vec![forbidden];
    rules.extend([lowered(IP, "segment4"), lowered(IP6, "segment6")].map(Iterator::collect));
    table.base("to_other_hosts", Hook::Postrouting, CLAMP, rules);
}

/// Lets a frame of a port into the bridge, or turned to the host.
fn pass() -> St {
    goto("redirect_frames")
}

fn rule(matches: Vec<St>, end: impl IntoIterator<Item = St>) -> Vec<St> {
    matches.into_iter().chain(end).collect()
}

/// What ports may send that are on VLANs with tags: one tag, as the bridge lets them, and behind it what they may send
/// without. The network's header is found behind the one tag that the kernel has taken off (`skb_vlan_untag`); a second
/// tag stands where the type of the frame would.
fn add_trunk_guard(table: &mut Builder) {
    let tagged = || of_type(TAGS[0]);
    let own_source = || St::In(vec![S::IifName, S::EtherSaddr, S::IpSaddr], "source4");
    let wrong_mac =
        || rule(vec![St::NotIn(vec![S::IifName, S::EtherSaddr], "port_mac")], dropped("drop_mac"));
    for (trunk, behind, port) in [
        ("from_trunk", "from_trunk_tagged", "from_port"),
        ("from_trunk_mac", "from_trunk_mac_tagged", "from_port_mac"),
        ("from_trunk_any", "from_trunk_any_tagged", "from_port_any"),
    ] {
        // Where a tag has a priority and no number, the bridge would take it for none at all.
        let priority_only = rule(vec![tagged(), tag_is(0)], dropped("drop_vlan"));
        table.chain(trunk, vec![priority_only, vec![tagged(), goto(behind)], vec![goto(port)]]);
    }
    table.chain(
        "from_trunk_tagged",
        vec![
            wrong_mac(),
            vec![of_inner_type(IP), own_source(), goto("from_port_own_ip")],
            vec![of_inner_type(IP), goto("from_port_ip")],
            vec![of_inner_type(IP6), goto("from_port_ip6")],
            vec![of_inner_type(ARP), goto("from_port_arp")],
            vec![goto("of_other_inner_type")],
        ],
    );
    table.chain(
        "from_trunk_mac_tagged",
        vec![
            wrong_mac(),
            rule(vec![of_inner_type(IP), loopback_v4(S::IpDaddr)], dropped("drop_address")),
            vec![of_inner_type(IP), pass()],
            vec![of_inner_type(IP6), pass()],
            vec![of_inner_type(ARP), pass()],
            vec![goto("of_other_inner_type")],
        ],
    );
    let twice = || TAGS.map(|tag| rule(vec![of_inner_type(tag)], dropped("drop_vlan"))).into_iter();
    table.chain("of_other_inner_type", twice().chain([rule(vec![], dropped("drop_type"))]).collect());
    table.chain("from_trunk_any_tagged", twice().chain([vec![free(), pass()]]).collect());
}

/// The chain that looks at what a port of a bridge sends.
fn bridge_guard_of(port: &Port<'_>) -> Verdict {
    if port.nic.trunk.is_empty() {
        return guard_of(port);
    }
    let chain = match port.nic.spoofing {
        Spoofing::None => "from_trunk",
        Spoofing::Ip => "from_trunk_mac",
        Spoofing::Mac => "from_trunk_any",
    };
    Verdict::Goto(chain.to_owned())
}

fn add_guard(context: &Context<'_>, table: &mut Builder) {
    let own_source = || St::In(vec![S::IifName, S::EtherSaddr, S::IpSaddr], "source4");
    let wrong_mac = || St::NotIn(vec![S::IifName, S::EtherSaddr], "port_mac");
    // The ethertype is that of the frame as sent: tagged frames, doubly or with priority only, match none of these.
    let mut guard: Vec<Vec<St>> = Vec::new();
    // Comparing a name or two costs less than a look that finds nothing.
    let ways: Vec<IfName> = context.config.vnets.values().flat_map(Vnet::interfaces).collect();
    if ways.len() <= FEW {
        guard.extend(ways.iter().map(|way| vec![St::Is(S::IifName, Const::name(way.as_str())), accept()]));
    }
    guard.extend([
        // What most frames of guests are comes first: one look says what the chain of the port would.
        vec![from_ours(), of_type(IP), own_source(), goto("from_port_own_ip")],
        vec![St::VerdictMap(vec![S::IifName], "ports")],
        rule(vec![from_ours()], dropped("drop_unknown")),
    ]);
    // The bridge's own number for what has no tag is nobody's outside.
    for (name, uplink, _) in context.uplinks() {
        let Some((_, own)) = uplink_vlans(context.config, name) else { continue };
        let device = St::Is(S::IifName, Const::name(uplink.interface.as_str()));
        guard.push(rule(vec![device, of_type(TAGS[0]), tag_is(own)], dropped("drop_vlan")));
    }
    table.base("guard", Hook::Prerouting, GUARD, guard);
    table.chain(
        "from_port",
        vec![
            vec![of_type(IP), own_source(), goto("from_port_own_ip")],
            rule(vec![wrong_mac()], dropped("drop_mac")),
            vec![of_type(IP), goto("from_port_ip")],
            vec![of_type(IP6), goto("from_port_ip6")],
            vec![of_type(ARP), goto("from_port_arp")],
            vec![goto("of_other_type")],
        ],
    );
    table.chain(
        "from_port_mac",
        vec![
            rule(vec![wrong_mac()], dropped("drop_mac")),
            rule(vec![of_type(IP), loopback_v4(S::IpDaddr)], dropped("drop_address")),
            vec![of_type(IP), pass()],
            vec![of_type(IP6), pass()],
            vec![of_type(ARP), pass()],
            vec![goto("of_other_type")],
        ],
    );
    let tagged = || TAGS.map(|tag| rule(vec![of_type(tag)], dropped("drop_vlan"))).into_iter();
    // By RARP those who run a machine that has moved tell the switches where it is (QEMU, Xen): of its own MAC, which has
    // been looked at.
    let arrival = || vec![of_type(RARP), pass()];
    table.chain("of_other_type", tagged().chain([arrival(), rule(vec![], dropped("drop_type"))]).collect());
    // Anything, but not in another segment than its own.
    table.chain("from_port_any", tagged().chain([vec![free(), pass()]]).collect());
    // Servers of DHCP are the host's, or the segment's.
    let from_server = || rule(vec![udp(), sport(67)], dropped("drop_dhcp"));
    let to_loopback = || rule(vec![loopback_v4(S::IpDaddr)], dropped("drop_address"));
    table.chain("from_port_own_ip", vec![from_server(), to_loopback(), vec![pass()]]);
    table.chain(
        "from_port_ip",
        vec![
            from_server(),
            to_loopback(),
            // A client that has no address yet asks for one (RFC 2131, 4.1).
            vec![St::Is(S::IpSaddr, Const::v4(Ipv4Addr::UNSPECIFIED)), udp(), dport(67), pass()],
            rule(vec![], dropped("drop_address")),
        ],
    );
    table.chain(
        "from_port_arp",
        vec![
            rule(vec![St::NotIn(vec![S::IifName, S::ArpSaddrEther], "port_mac")], dropped("drop_arp")),
            vec![St::In(vec![S::IifName, S::ArpSaddrEther, S::ArpSaddrIp], "source4"), pass()],
            // An address conflict probe has no sender address (RFC 5227, 2.1.1). Who asks for another's is in the way of that one's own.
            vec![
                St::Is(S::ArpSaddrIp, Const::v4(Ipv4Addr::UNSPECIFIED)),
                St::Is(S::ArpOperation, Const::be16(1, "request")),
                St::In(vec![S::IifName, S::ArpSaddrEther, S::ArpDaddrIp], "source4"),
                pass(),
            ],
            rule(vec![], dropped("drop_arp")),
        ],
    );
}

fn add_ipv6_guard(table: &mut Builder) {
    // The offset is the upper 13 bits (RFC 8200, 4.5).
    let first_fragment = || St::Masked(S::FragOffset, Const::be16(0xfff8, "0xfff8"), Const::be16(0, "0"));
    // Always true where the ports can be read at all.
    let readable = || St::Masked(S::ThDport, Const::be16(0, "0"), Const::be16(0, "0"));
    table.chain(
        "from_port_ip6",
        vec![
            vec![St::Is(S::FragExists, Const::u8(1, "exists")), goto("from_port_ip6_fragment")],
            vec![goto("from_port_ip6_whole")],
        ],
    );
    // A first fragment shows its whole header chain (RFC 7112), and neighbour discovery is never fragmented (RFC 6980);
    // otherwise what is forbidden below could hide behind the cut.
    let mut fragment = vec![];
    for number in 133..=137u8 {
        let message = vec![first_fragment(), icmpv6(), icmpv6_type(number, &number.to_string())];
        fragment.push(rule(message, dropped("drop_fragment")));
    }
    fragment.push(vec![first_fragment(), readable(), goto("from_port_ip6_whole")]);
    fragment.push(rule(vec![first_fragment()], dropped("drop_fragment")));
    fragment.push(vec![goto("from_port_ip6_source")]);
    table.chain("from_port_ip6_fragment", fragment);
    let own_target = || St::In(vec![S::IifName, S::EtherSaddr, S::NdTarget], "source6");
    table.chain(
        "from_port_ip6_whole",
        vec![
            rule(vec![udp(), sport(547)], dropped("drop_dhcp")),
            vec![icmpv6(), goto("from_port_icmpv6")],
            vec![goto("from_port_ip6_source")],
        ],
    );
    table.chain(
        "from_port_icmpv6",
        vec![
            rule(vec![icmpv6_type(134, "nd-router-advert")], dropped("drop_ra")),
            rule(vec![icmpv6_type(137, "nd-redirect")], dropped("drop_ra")),
            vec![icmpv6_type(136, "nd-neighbor-advert"), jump("from_port_advert")],
            vec![St::Is(S::Ip6Saddr, Const::v6(Ipv6Addr::UNSPECIFIED)), goto("from_port_unspecified")],
            vec![goto("from_port_ip6_source")],
        ],
    );
    table.chain("from_port_unspecified", from_unspecified(pass));
    table.chain(
        "from_port_advert",
        vec![
            vec![own_target(), back()],
            rule(vec![St::In(vec![S::NdTarget], "taken_link_local")], dropped("drop_nd")),
            rule(vec![made_of_mac(S::NdTarget)], dropped("drop_nd")),
            vec![link_local(S::NdTarget), back()],
            rule(vec![], dropped("drop_nd")),
        ],
    );
    table.chain(
        "from_port_ip6_source",
        vec![
            vec![St::In(vec![S::IifName, S::EtherSaddr, S::Ip6Saddr], "source6"), pass()],
            rule(vec![St::In(vec![S::Ip6Saddr], "taken_link_local")], dropped("drop_address")),
            // Somebody else's, whose MAC no file here has to know: a guest's or a router's on another host of the vnet.
            rule(vec![made_of_mac(S::Ip6Saddr)], dropped("drop_address")),
            // A link-local address that is not made of a MAC (RFC 7217).
            vec![link_local(S::Ip6Saddr), pass()],
            rule(vec![], dropped("drop_address")),
        ],
    );
}
