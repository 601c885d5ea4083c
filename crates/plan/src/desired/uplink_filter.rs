//! Table `netdev viaduct`: no MAC leaves an uplink that the file did not put there, and the addresses of guests with a
//! provider's MAC leave with it.

use viaduct_model::{Mode, Nic, Spoofing, Uplink, Vnet, VnetPort};
use viaduct_types::{MacAddr, UplinkName};

use super::{
    bridge_filter::FREE_MARK,
    context::Context,
    elements::{Builder, words::*},
    namespaces::macs,
    vnets::host_mac_in,
};
use crate::nft::{
    Base, ChainKind, Const, Family, Hook, Key, Selector as S, Statement as St, Table, Type as T,
};

const IP: (u16, &str) = (0x0800, "ip");
const ARP: (u16, &str) = (0x0806, "arp");
const IP6: (u16, &str) = (0x86dd, "ip6");

pub(super) fn table(context: &Context<'_>) -> Option<(Family, Table)> {
    let empty = context.config.networks.is_empty() && context.config.namespaces.is_empty();
    if !context.observed.features.nft_egress || empty {
        return None;
    }
    let mut table = Builder::default();
    table.set("macs", &[T::IfName, T::Ether]);
    table.set("listening", &[T::IfName, T::Ether]);
    table.map("mac_of4", &[T::Ipv4], &[T::Ether]);
    table.map("mac_of6", &[T::Ipv6], &[T::Ether]);
    table.counted("drop_leak");
    for (name, uplink, l3) in context.uplinks() {
        let Some(link) = context.observed.links.get(&uplink.interface) else { continue };
        let device = || Key::new().name(&uplink.interface);
        let vnets: Vec<&Vnet> = vnets(context, uplink).collect();
        // What the host itself says on their bridges.
        let own = vnets.iter().map(|vnet| host_mac_in(&context.config.host, &vnet.bridge));
        let others = bridged_macs(context, name).into_iter().chain(macs(context, name)).chain(own);
        for mac in link.mac.into_iter().chain(others) {
            table.insert("macs", device().mac(mac));
        }
        for nic in with_uplink_mac(context, name) {
            table.insert("macs", device().mac(nic.mac));
            table.insert("listening", device().mac(nic.mac));
            table.insert("listening", Key::new().name(l3).mac(nic.mac));
            for address in nic.addresses.iter().map(|net| net.addr()) {
                let map = if address.is_ipv6() { "mac_of6" } else { "mac_of4" };
                table.relate(map, Key::new().ip(address), Key::new().mac(nic.mac));
            }
        }
        let own_mac = with_uplink_mac(context, name).next().is_some();
        let free = !vnets.is_empty()
            || context.ports.iter().any(|port| {
                port.nic.spoofing == Spoofing::Mac
                    && matches!(port.network.mode, Mode::Bridged { .. })
                    && port.network.uplink.as_ref() == Some(name)
            });
        let base = |hook| Base {
            kind: ChainKind::Filter,
            hook,
            priority: 0,
            device: Some(uplink.interface.clone()),
        };
        table.base_chain(&format!("out_{name}"), base(Hook::Egress), outgoing(link.mac, own_mac, free));
        if own_mac {
            table.base_chain(&format!("in_{name}"), base(Hook::Ingress), incoming());
        }
    }
    Some((Family::Netdev, table.finish()))
}

/// The vnets that go on behind an uplink, by a VLAN of it. Who is in them is not known by any list: what goes there is marked
/// on its way through the bridge.
fn vnets<'a>(context: &Context<'a>, uplink: &'a Uplink) -> impl Iterator<Item = &'a Vnet> {
    let is_port = |port: &VnetPort| port.interface == uplink.interface;
    context.config.vnets.values().filter(move |vnet| vnet.port.as_ref().is_some_and(is_port))
}

/// The MACs of the NICs that the file puts on an uplink's segment.
fn bridged_macs(context: &Context<'_>, name: &UplinkName) -> Vec<MacAddr> {
    let bridged = |nic: &&Nic| {
        context
            .config
            .networks
            .get(&nic.network)
            .is_some_and(|n| matches!(n.mode, Mode::Bridged { .. }) && n.uplink.as_ref() == Some(name))
    };
    context.config.guests.values().flat_map(|g| &g.nics).filter(bridged).map(|nic| nic.mac).collect()
}

/// The NICs that speak with their own MAC on an uplink.
fn with_uplink_mac<'a>(context: &Context<'a>, name: &'a UplinkName) -> impl Iterator<Item = &'a Nic> {
    let config = context.config;
    config.guests.values().flat_map(|g| &g.nics).filter(move |nic| {
        nic.uplink_mac && config.networks.get(&nic.network).is_some_and(|n| n.uplink.as_ref() == Some(name))
    })
}

fn outgoing(uplink: Option<MacAddr>, own_mac: bool, free: bool) -> Vec<Vec<St>> {
    let of_type = |(number, word): (u16, &str)| ethertype(number, word);
    let mut rules = Vec::new();
    if own_mac {
        rules.push(vec![of_type(IP), St::WriteMapped(S::EtherSaddr, vec![S::IpSaddr], "mac_of4")]);
        // The kernel answers ARP and ND with the uplink's MAC, inside the message, too.
        rules.push(vec![
            of_type(ARP),
            St::WriteMapped(S::ArpSaddrEther, vec![S::ArpSaddrIp], "mac_of4"),
            St::WriteMapped(S::EtherSaddr, vec![S::ArpSaddrIp], "mac_of4"),
        ]);
        rules.push(vec![
            of_type(IP6),
            icmpv6(),
            icmpv6_type(136, "nd-neighbor-advert"),
            // The option with the link-layer address: type 2, eight bytes (RFC 4861, 4.6.1).
            St::Is(S::NaOption, Const::be16(0x0201, "0x0201")),
            St::WriteMapped(S::NaTargetLinkLayer, vec![S::NdTarget], "mac_of6"),
            St::WriteMapped(S::EtherSaddr, vec![S::NdTarget], "mac_of6"),
            // The address speaks for itself, so that each source address has one MAC on the wire.
            St::Copy(S::Ip6Saddr, S::NdTarget),
        ]);
        rules.push(vec![of_type(IP6), St::WriteMapped(S::EtherSaddr, vec![S::Ip6Saddr], "mac_of6")]);
    }
    // The host's own, as most frames are, need no look into the set.
    rules.extend(uplink.map(|mac| vec![St::Is(S::EtherSaddr, Const::mac(mac)), accept()]));
    rules.push(vec![St::In(vec![S::OifName, S::EtherSaddr], "macs"), accept()]);
    if free {
        let mark = Const::u32(FREE_MARK, &format!("{FREE_MARK:#x}"));
        rules.push(vec![St::Masked(S::Mark, mark.clone(), mark), accept()]);
    }
    rules.push(vec![St::CountIn("drop_leak", vec![S::OifName]), drop()]);
    rules
}

/// Frames to a guest's own MAC are for this host, which routes them on.
fn incoming() -> Vec<Vec<St>> {
    vec![vec![St::In(vec![S::IifName, S::EtherDaddr], "listening"), St::Write(S::PktType, Const::u8(0, "0"))]]
}
