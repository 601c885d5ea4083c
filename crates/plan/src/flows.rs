//! Which tracked flows a change of the filter ends: exactly those that it let through before and does not now.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    debt,
    nft::{Family, Key, Ruleset, Set, Table, Value},
    state::{Flow, Tuple},
};

/// IPPROTO_UDP
const UDP: u8 = 17;

/// What becomes of flows when a filter takes another's place.
#[derive(Clone, Debug)]
pub struct Flows<'a> {
    observed: &'a Ruleset,
    desired: &'a Ruleset,
    /// The filter whose flows were left to end by an earlier run.
    left: Option<Ruleset>,
}

impl<'a> Flows<'a> {
    /// From the filter that there is to the one that there is to be.
    pub fn new(observed: &'a Ruleset, desired: &'a Ruleset) -> Self {
        Self { observed, desired, left: debt::before(observed) }
    }

    /// Whether the new filter lets the flow live.
    pub fn keeps(&self, flow: &Flow) -> bool {
        let by_now = || ends(self.observed, self.desired, flow);
        !self.left.as_ref().is_some_and(|left| ends(left, self.desired, flow)) && !by_now()
    }
}

/// Whether a flow that the filter `before` let through must end under the filter `after`.
///
/// It lives on each of its permissions and ends with the first that goes. Permissions of guests that are away count,
/// too: what the flow is known by outlives that (see `recall`).
pub fn ends(before: &Ruleset, after: &Ruleset, flow: &Flow) -> bool {
    let view = |filter| View::new(filter);
    match (view(before), view(after)) {
        (Some(before), Some(after)) => {
            before.allows(flow) == Some(true) && after.allows(flow) != Some(true)
                || before.is_ours(flow) && before.permissions(flow).lost(&after.permissions(flow))
                || after.led_past(flow) && before.published_at(flow) != after.published_at(flow)
        }
        // A filter that comes anew does not know what an earlier one let through.
        (None, Some(after)) => after.allows(flow) == Some(false) || after.led_past(flow),
        (Some(before), None) => before.allows(flow) == Some(true),
        (None, None) => false,
    }
}

/// Whether a filter lets a flow be opened; none when the flow is no business of ours.
pub fn lets_through(filter: &Ruleset, flow: &Flow) -> Option<bool> {
    View::new(filter)?.allows(flow)
}

/// What a flow lives on, as far as one thing can go while the others stay.
struct Permissions {
    /// Where the published port leads that the flow has come by.
    published: Option<(IpAddr, u16)>,
    /// What the lists of its two ends say, of those that have one.
    listed: [Option<bool>; 2],
    /// Whether guests may open flows to each other here.
    between: bool,
    /// The uplinks that may bring it in.
    uplinks: BTreeSet<Vec<u8>>,
}

impl Permissions {
    fn lost(&self, after: &Self) -> bool {
        if self.published.is_some() {
            return self.published != after.published;
        }
        let forbidden = |side: usize| self.listed[side] != Some(false) && after.listed[side] == Some(false);
        let moved = !self.uplinks.is_empty() && self.uplinks.is_disjoint(&after.uplinks);
        let unlisted = after.listed[1].is_none() && !after.between && (self.between || moved);
        forbidden(0) || forbidden(1) || unlisted
    }
}

/// Table inet as far as it decides about flows.
struct View<'a>(&'a Table);

impl<'a> View<'a> {
    fn new(filter: &'a Ruleset) -> Option<Self> {
        filter.tables.get(&Family::Inet).map(Self)
    }

    fn set(&self, v6: bool, name: &str) -> Option<&'a Set> {
        self.0.sets.get(&format!("{name}{}", if v6 { "6" } else { "4" }))
    }

    fn has(&self, v6: bool, name: &str, key: &Key) -> bool {
        self.set(v6, name).is_some_and(|set| set.lookup(key).is_some())
    }

    /// Whether the filter lets the flow through; none when it is no business of ours.
    fn allows(&self, flow: &Flow) -> Option<bool> {
        let v6 = flow.original.source.is_ipv6();
        let to = flow.reply.source;
        let published =
            to != flow.original.destination || flow.reply.source_port != flow.original.destination_port;
        let from_guest = self.is_guest(flow.original.source);
        let to_guest = self.is_guest(to) || !self.uplinks_to(v6, to).is_empty();
        if published && self.published_to(flow.protocol, &flow.original).is_some() {
            return Some(
                self.published_to(flow.protocol, &flow.original) == Some((to, flow.reply.source_port)),
            );
        }
        if !from_guest && !to_guest {
            return None;
        }
        let out = !from_guest || self.may(v6, "out", flow, [flow.original.source, to]);
        let into = !to_guest
            || if self.has(v6, "listed_in", &Key::new().ip(to)) {
                self.may(v6, "in", flow, [to, flow.original.source])
            } else if from_guest {
                self.has(v6, "between", &Key::new().ip(flow.original.source).ip(to))
            } else {
                !self.uplinks_to(v6, to).is_empty()
            };
        Some(out && into)
    }

    /// Whether an address is a guest's, or of what is behind it, who need not be here.
    fn is_guest(&self, address: IpAddr) -> bool {
        let (v6, key) = (address.is_ipv6(), Key::new().ip(address));
        let sets = ["attached", "listed_in", "listed_out"];
        sets.into_iter().any(|set| self.has(v6, set, &key))
            || self.has(v6, "behind", &key.protocol(0))
            || self.has(v6, "own", &Key::new().protocol(0).ip(address))
    }

    /// Whether it may be a flow of guests, who need not be here.
    fn is_ours(&self, flow: &Flow) -> bool {
        let (from, to) = (flow.original.source, flow.reply.source);
        self.is_guest(from)
            || self.is_guest(to)
            || self.has(to.is_ipv6(), "between", &Key::new().ip(from).ip(to))
            || !self.uplinks_to(to.is_ipv6(), to).is_empty()
    }

    fn permissions(&self, flow: &Flow) -> Permissions {
        let v6 = flow.original.source.is_ipv6();
        let (from, to) = (flow.original.source, flow.reply.source);
        let target = (to, flow.reply.source_port);
        let listed = |list: &str, ends: [IpAddr; 2]| {
            let has_list = self.has(v6, &format!("listed_{list}"), &Key::new().ip(ends[0]));
            has_list.then(|| self.may(v6, list, flow, ends))
        };
        Permissions {
            published: (target != (flow.original.destination, flow.original.destination_port))
                .then(|| self.published_to(flow.protocol, &flow.original))
                .flatten()
                .filter(|published| *published == target),
            listed: [listed("out", [from, to]), listed("in", [to, from])],
            between: self.has(v6, "between", &Key::new().ip(from).ip(to)),
            uplinks: self.uplinks_to(v6, to),
        }
    }

    /// Whether the flow goes past a port that is published now: a datagram's sender who began before that, and never
    /// pauses, would never be led to the guest. Connections to the host itself are not cut, as new ones have ports of
    /// their own.
    fn led_past(&self, flow: &Flow) -> bool {
        let target = (flow.reply.source, flow.reply.source_port);
        flow.protocol == UDP && self.published_at(flow).is_some_and(|published| published != target)
    }

    /// Where a port leads that is published at just the address that the flow was opened to.
    fn published_at(&self, flow: &Flow) -> Option<(IpAddr, u16)> {
        self.published_in(&["publish"], &["publish_range"], flow.protocol, &flow.original)
    }

    /// What the published ports make of a destination.
    fn published_to(&self, protocol: u8, tuple: &Tuple) -> Option<(IpAddr, u16)> {
        let (exact, ranges) = (["publish", "publish_all"], ["publish_range", "publish_all_range"]);
        self.published_in(&exact, &ranges, protocol, tuple)
    }

    fn published_in(
        &self,
        exact: &[&str],
        ranges: &[&str],
        protocol: u8,
        tuple: &Tuple,
    ) -> Option<(IpAddr, u16)> {
        let (address_of, port) = (tuple.destination, tuple.destination_port);
        let v6 = address_of.is_ipv6();
        let at_all = Key::new().protocol(protocol).port(port);
        let exact_keys = [Key::new().ip(address_of).protocol(protocol).port(port), at_all];
        let range = || Key::new().port(port).protocol(protocol);
        let range_keys = [range().ip(address_of), range()];
        let find = |names: &[&str], keys: [Key; 2]| {
            names.iter().zip(keys).find_map(|(name, key)| match self.set(v6, name)?.lookup(&key)? {
                Value::Fields(bytes) => Some(bytes.clone()),
                Value::None | Value::Verdict(_) => None,
            })
        };
        let len = if v6 { 16 } else { 4 };
        if let Some(bytes) = find(exact, exact_keys) {
            let port = bytes.get(len..len + 2).and_then(|b| Some(u16::from_be_bytes(b.try_into().ok()?)))?;
            return Some((address(bytes.get(..len)?)?, port));
        }
        Some((address(find(ranges, range_keys)?.get(..len)?)?, tuple.destination_port))
    }

    /// Whether a guest's own list allows the flow with the other end; a guest without one is not narrowed.
    fn may(&self, v6: bool, list: &str, flow: &Flow, [whose, peer]: [IpAddr; 2]) -> bool {
        if !self.has(v6, &format!("listed_{list}"), &Key::new().ip(whose)) {
            return true;
        }
        let pair = || Key::new().ip(whose).ip(peer).protocol(flow.protocol);
        let service = || pair().port(flow.reply.source_port);
        self.has(v6, &format!("{list}_service"), &service())
            || self.has(v6, &format!("{list}_protocols"), &pair())
            || self.has(v6, &format!("{list}_ports"), &service())
    }

    /// The uplinks that let new flows in to an address: a tracked flow does not tell its own.
    fn uplinks_to(&self, v6: bool, to: IpAddr) -> BTreeSet<Vec<u8>> {
        let Some(set) = self.set(v6, "inbound") else { return BTreeSet::new() };
        let address = Key::new().ip(to).first;
        let leads_to = |key: &&Key| {
            let (first, last) = (key.first.get(16..), key.last.get(16..));
            first.is_some_and(|f| f <= address.as_slice()) && last.is_some_and(|l| address.as_slice() <= l)
        };
        let keys = set.elements.keys().filter(leads_to);
        keys.filter_map(|key| key.first.get(..16)).map(<[u8]>::to_vec).collect()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}
