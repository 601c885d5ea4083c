//! Who may send frames of vnets that nothing protects: the hosts that are in one, from where their connections come. The
//! kernel takes VXLAN from anybody.

use std::{collections::BTreeSet, net::IpAddr};

use viaduct_model::Security;
use viaduct_types::VXLAN_PORT;

use super::{
    super::{
        context::Context,
        elements::{Builder, words::*},
    },
    FILTER,
    families::{FAMILIES, FamilyWords, both},
};
use crate::nft::{Hook, Key, Selector as S, Statement as St};

/// Whether there is such a vnet.
pub(super) fn is_needed(context: &Context<'_>) -> bool {
    context.config.vnets.values().any(|vnet| vnet.security == Security::None)
}

pub(super) fn add(context: &Context<'_>, table: &mut Builder) {
    for f in &FAMILIES {
        table.set(both!(f, "vxlan4", "vxlan6"), &[f.address]);
    }
    table.counted("drop_vxlan");
    let plain = context.config.vnets.values().filter(|vnet| vnet.security == Security::None);
    let members: BTreeSet<IpAddr> = plain.flat_map(|vnet| vnet.reached.iter().copied()).collect();
    for member in members {
        table.insert(if member.is_ipv6() { "vxlan6" } else { "vxlan4" }, Key::new().ip(member));
    }
    let of_member = |f: &FamilyWords| {
        vec![
            (f.is)(),
            udp(),
            dport(VXLAN_PORT),
            St::In(vec![f.saddr], both!(f, "vxlan4", "vxlan6")),
            accept(),
        ]
    };
    let others = vec![udp(), dport(VXLAN_PORT), St::CountIn("drop_vxlan", vec![S::IifName]), drop()];
    // What is let through here is looked at by the chains after it, like everything else.
    table.base(
        "vxlan",
        Hook::Input,
        FILTER - 1,
        vec![of_member(&FAMILIES[0]), of_member(&FAMILIES[1]), others],
    );
}
