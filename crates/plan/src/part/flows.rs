//! Which tracked flows a partial change ends: those of the changed guests, judged with the guests at their other ends.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_model::{Config, Guest};
use viaduct_types::{GuestName, Proto};

use super::{Reduced, reduced::Pair, section::supposed};
use crate::{
    flows::ends,
    nft::Ruleset,
    state::{Attachments, Flow, Observed},
};

/// With more combinations of guests than these, all are rendered once instead.
const COMBINATIONS: usize = 16;

/// The filter before and after.
type Filters = (Ruleset, Ruleset);

/// Judges flows.
#[derive(Debug)]
pub struct Judge<'a> {
    reduced: &'a Reduced<'a>,
    ground: &'a Observed,
    /// The addresses of the changed guests, and those that they publish at.
    touched: BTreeSet<IpAddr>,
    /// Who publishes a port: by address, protocol and port.
    publishers: RefCell<BTreeMap<(IpAddr, u8, u16), BTreeSet<GuestName>>>,
    owners: OnceCell<BTreeMap<IpAddr, &'a GuestName>>,
    combinations: RefCell<BTreeMap<BTreeSet<GuestName>, Filters>>,
    whole: OnceCell<Filters>,
}

impl<'a> Judge<'a> {
    /// `ground` is what [`Reduced::ground`] found.
    pub fn new(reduced: &'a Reduced<'a>, ground: &'a Observed) -> Self {
        let sides = [reduced.before.config, reduced.after.config];
        let guests = sides
            .into_iter()
            .flat_map(|config| reduced.changed.iter().filter_map(|name| config.guests.get(name)));
        let touched = guests.flat_map(|guest| {
            let own = guest.nics.iter().flat_map(|nic| nic.addresses.iter().map(|net| net.addr()));
            own.chain(guest.publish.iter().filter_map(|p| p.publish.address))
        });
        Self {
            reduced,
            ground,
            touched: touched.collect(),
            publishers: RefCell::default(),
            owners: OnceCell::new(),
            combinations: RefCell::default(),
            whole: OnceCell::new(),
        }
    }

    /// Whether the new filter lets the flow live.
    pub fn keeps(&self, flow: &Flow) -> bool {
        let ends_of = [flow.original, flow.reply].map(|tuple| [tuple.source, tuple.destination]);
        let addresses = ends_of.as_flattened();
        if !addresses.iter().any(|address| self.touched.contains(address)) {
            return true;
        }
        let mut others: BTreeSet<GuestName> = addresses
            .iter()
            .filter_map(|address| self.owners().get(address))
            .map(|name| (*name).clone())
            .collect();
        let translated = flow.reply.source != flow.original.destination
            || flow.reply.source_port != flow.original.destination_port;
        // A flow may have been there before its port was published.
        if translated || flow.protocol == Proto::Udp.number() {
            others.extend(self.publishers(flow));
        }
        let mut combinations = self.combinations.borrow_mut();
        if let Some((before, after)) = combinations.get(&others) {
            return !ends(before, after, flow);
        }
        if combinations.len() >= COMBINATIONS {
            let (before, after) = self.whole.get_or_init(|| self.filters(&self.everybody()));
            return !ends(before, after, flow);
        }
        let (before, after) =
            combinations.entry(others.clone()).or_insert_with(|| self.filters(&self.reduced.with(&others)));
        !ends(before, after, flow)
    }

    /// Who publishes the port that a flow was opened to.
    fn publishers(&self, flow: &Flow) -> BTreeSet<GuestName> {
        let (address, port) = (flow.original.destination, flow.original.destination_port);
        let publishes = |guest: &Guest| {
            guest.publish.iter().any(|p| {
                p.publish.address.is_none_or(|a| a == address)
                    && p.publish.proto.number() == flow.protocol
                    && p.publish.host.contains(port)
            })
        };
        let find = || {
            let sides = [self.reduced.before.config, self.reduced.after.config];
            let guests = sides.into_iter().flat_map(|config| self.reduced.guests(config));
            guests.filter(|(_, guest)| publishes(guest)).map(|(name, _)| name.clone()).collect()
        };
        self.publishers.borrow_mut().entry((address, flow.protocol, port)).or_insert_with(find).clone()
    }

    /// Whose address is whose.
    fn owners(&self) -> &BTreeMap<IpAddr, &'a GuestName> {
        self.owners.get_or_init(|| {
            let sides = [self.reduced.before.config, self.reduced.after.config];
            let addresses = |(name, guest): (&'a GuestName, &'a Guest)| {
                guest.nics.iter().flat_map(|nic| &nic.addresses).map(move |net| (net.addr(), name))
            };
            sides
                .into_iter()
                .flat_map(|config: &'a Config| self.reduced.guests(config).flat_map(addresses))
                .collect()
        })
    }

    fn everybody(&self) -> Pair {
        let configs = [self.reduced.before.config, self.reduced.after.config];
        self.reduced.with(
            &configs
                .into_iter()
                .flat_map(|config| self.reduced.guests(config))
                .map(|(name, _)| name.clone())
                .collect(),
        )
    }

    fn filters(&self, pair: &Pair) -> Filters {
        let changed = &self.reduced.changed;
        let filter = |(config, attachments): &(Config, Attachments), ground: &Observed| {
            self.reduced.desired(config, attachments, ground).0.nft
        };
        let before = supposed(self.reduced, &pair.before.1, self.ground, |_| true);
        let after = supposed(self.reduced, &pair.after.1, self.ground, |nic| !changed.contains(&nic.guest));
        (filter(&pair.before, &before), filter(&pair.after, &after))
    }
}
