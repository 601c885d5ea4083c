//! An edit of a large configuration that is loaded already: only the tables of its guest are read anew, with what is
//! no guest's. The result is the one that reading everything anew would give, or there is none.

mod lines;
mod sections;

use std::{collections::BTreeSet, net::IpAddr};

use viaduct_types::GuestName;

use super::{Edit, EditOutcome, apply};
use crate::{AllowPeer, Config, Guest, Source, load};
use sections::{Small, Splice};

/// More guests than these that name each other are read with all others.
const MOST: usize = 64;

/// A configuration after edits.
#[derive(Clone, Debug)]
pub struct Edited {
    /// Its files.
    pub sources: Vec<Source>,
    /// What they say.
    pub config: Config,
    /// What came of each edit.
    pub outcomes: Vec<EditOutcome>,
}

/// Makes edits of one guest in files that `config` was loaded from. None when it takes reading everything: then
/// [`apply`] says what is wrong, if anything is.
pub fn apply_to_loaded(sources: &[Source], config: &Config, edits: &[Edit]) -> Option<Edited> {
    let name = guest_of(edits.first()?);
    if edits.iter().any(|edit| guest_of(edit) != name || clashes(config, name, edit)) {
        return None;
    }
    let needed = named(config, name)?;
    let small = Small::new(sources, name, &needed)?;
    // Whatever is written in a way that the cut misread shows here.
    let mut before = load(&small.sources).ok()?.config;
    lines::each(&mut before, &mut |origin| small.place(origin));
    if !agree(&before, config, &needed) {
        return None;
    }
    let mut changed = small.sources.clone();
    let mut outcomes = Vec::new();
    for edit in edits {
        outcomes.push(apply(&mut changed, edit).ok()?);
    }
    let mut after = load(&changed).ok()?.config.guests.remove(name)?;
    if after.nics.iter().any(|nic| nic.addresses.is_empty()) {
        return None;
    }
    let splices: Vec<Splice> = (0..sources.len())
        .map(|index| small.splice(index, &changed.get(index)?.text))
        .collect::<Option<_>>()?;
    lines::each_of_guest(&mut after, &mut |origin| small.place_after(origin, &splices));
    let mut config = config.clone();
    if splices.iter().any(|splice| splice.moves_lines()) {
        lines::each(&mut config, &mut |origin| small.shift(origin, &splices));
    }
    config.guests.insert(name.clone(), after);
    let sources = sources.iter().zip(&splices).map(|(source, splice)| splice.apply(source)).collect();
    Some(Edited { sources, config, outcomes })
}

fn guest_of(edit: &Edit) -> &GuestName {
    match edit {
        Edit::AddAddress { nic, .. } | Edit::RemoveAddress { nic, .. } => &nic.guest,
        Edit::Publish { guest, .. } | Edit::Unpublish { guest, .. } => guest,
    }
}

/// Whether what is added may be somebody else's already.
fn clashes(config: &Config, name: &GuestName, edit: &Edit) -> bool {
    let mut others = config.guests.iter().filter(|(other, _)| *other != name).map(|(_, guest)| guest);
    let has = |guest: &Guest, ip: IpAddr| {
        guest
            .nics
            .iter()
            .any(|nic| nic.addresses.iter().any(|net| net.addr() == ip) || nic.gateways.contains(&ip))
    };
    match edit {
        Edit::AddAddress { address, .. } => others.any(|guest| {
            has(guest, address.ip) || guest.publish.iter().any(|p| p.publish.address == Some(address.ip))
        }),
        Edit::Publish { publish, .. } => others.any(|guest| {
            publish.address.is_some_and(|ip| has(guest, ip))
                || guest.publish.iter().any(|p| p.publish.overlaps(publish))
        }),
        Edit::RemoveAddress { .. } | Edit::Unpublish { .. } => false,
    }
}

/// The guest, and those that its lists name, and so on.
fn named(config: &Config, name: &GuestName) -> Option<BTreeSet<GuestName>> {
    let mut named = BTreeSet::new();
    let mut open = vec![name.clone()];
    while let Some(name) = open.pop() {
        let guest = config.guests.get(&name)?;
        for allow in guest.allow_in.iter().chain(&guest.allow_out).flatten() {
            if let AllowPeer::Guest(other) = &allow.peer
                && !named.contains(other)
            {
                open.push(other.clone());
            }
        }
        named.insert(name);
        if named.len() > MOST {
            return None;
        }
    }
    Some(named)
}

fn agree(small: &Config, config: &Config, needed: &BTreeSet<GuestName>) -> bool {
    small.host == config.host
        && small.single_port == config.single_port
        && small.uplinks == config.uplinks
        && small.networks == config.networks
        && small.namespaces == config.namespaces
        && small.peers == config.peers
        && small.vnets == config.vnets
        && small.relay == config.relay
        && small.discovery == config.discovery
        && small.guests.keys().eq(needed)
        && small.guests.iter().all(|(name, guest)| config.guests.get(name) == Some(guest))
}
