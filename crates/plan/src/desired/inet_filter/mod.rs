//! Table `inet viaduct`: who may send what, who may reach whom, and what is translated; and table `arp viaduct`, which
//! guards what routed ports say in ARP.
//!
//! Rules are constant: whatever depends on guests, ports or permissions stands in sets and maps, so that a packet costs
//! the same with ten guests and ten thousand.

mod families;
mod forward;
mod guard;
mod input;
mod midway;
mod plain;
mod recall;
mod translation;

use std::{collections::BTreeSet, net::IpAddr};

pub(super) use guard::{add_own_addresses, arp_table, from_unspecified, guard_of};
use viaduct_types::{IfName, IpNet};

use super::{context::Context, elements::Builder};
use crate::debt;
use crate::nft::{Const, Family, Selector, Statement, Table};

const FILTER: i32 = 0;

/// The table, when there is anything to filter.
pub(super) fn table(context: &Context<'_>, claimed: &BTreeSet<IpAddr>) -> Option<(Family, Table)> {
    let plain = plain::is_needed(context);
    if context.config.networks.is_empty() && !plain {
        return None;
    }
    let mut table = Builder::default();
    if plain {
        plain::add(context, &mut table);
    }
    guard::add(context, &mut table);
    forward::add(context, &mut table);
    midway::add(&mut table);
    input::add(context, claimed, &mut table);
    translation::add(context, &mut table);
    table.declare(debt::SET, debt::definition());
    Some((Family::Inet, table.finish()))
}

/// The connection's state is one of the words; `bits` are the kernel's for them (NF_CT_STATE_BIT).
fn ct_state(bits: u32, words: &str) -> Statement {
    Statement::Any(Selector::CtState, Const::u32(bits, words))
}

/// Of a connection that was let through, or that belongs to one.
fn known() -> Statement {
    ct_state(0b110, "established,related")
}

/// The connection's destination was translated: it goes to a published port (IPS_DST_NAT).
fn published() -> Statement {
    Statement::Any(Selector::CtStatus, Const::u32(0x20, "dnat"))
}

/// From an uplink, as the IP stack names it.
fn from_uplink(l3: &IfName) -> Statement {
    Statement::Is(Selector::IifName, Const::name(l3.as_str()))
}

fn aggregate(prefixes: Vec<IpNet>) -> Vec<IpNet> {
    IpNet::aggregate(&prefixes)
}
