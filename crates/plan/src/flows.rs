//! Which tracked flows a change of the filter ends: exactly those that it let through before and does not now.

use std::net::IpAddr;

use crate::{
    nft::{Family, Key, Ruleset, Set, Table, Value},
    state::{Flow, Tuple},
};

/// Whether a flow that the filter `before` let through must end under the filter `after`.
pub fn ends(before: &Ruleset, after: &Ruleset, flow: &Flow) -> bool {
    let view = |filter| View::new(filter);
    match (view(before), view(after)) {
        (Some(before), Some(after)) => before.allows(flow) == Some(true) && after.allows(flow) != Some(true),
        // Without a filter nothing was, or is, ours to judge.
        (None, _) | (_, None) => false,
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
        let from_guest = self.has(v6, "attached", &Key::new().ip(flow.original.source));
        let to_guest = self.has(v6, "attached", &Key::new().ip(to));
        if published && self.published_to(v6, flow.protocol, &flow.original).is_some() {
            return Some(
                self.published_to(v6, flow.protocol, &flow.original) == Some((to, flow.reply.source_port)),
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
                self.inbound(v6, to)
            };
        Some(out && into)
    }

    /// What the published ports make of a destination.
    fn published_to(&self, v6: bool, protocol: u8, tuple: &Tuple) -> Option<(IpAddr, u16)> {
        let service = |key: Key| key.protocol(protocol).port(tuple.destination_port);
        let exact =
            [("publish", service(Key::new().ip(tuple.destination))), ("publish_all", service(Key::new()))];
        let ranges = [
            ("publish_range", service(Key::new().ip(tuple.destination))),
            ("publish_all_range", service(Key::new())),
        ];
        let find = |list: [(&str, Key); 2]| {
            list.into_iter().find_map(|(name, key)| match self.set(v6, name)?.lookup(&key)? {
                Value::Fields(bytes) => Some(bytes.clone()),
                Value::None | Value::Verdict(_) => None,
            })
        };
        let len = if v6 { 16 } else { 4 };
        if let Some(bytes) = find(exact) {
            let port = bytes.get(len..len + 2).and_then(|b| Some(u16::from_be_bytes(b.try_into().ok()?)))?;
            return Some((address(bytes.get(..len)?)?, port));
        }
        Some((address(find(ranges)?.get(..len)?)?, tuple.destination_port))
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

    /// Whether any uplink lets new flows in to an address: a tracked flow does not tell its device.
    fn inbound(&self, v6: bool, to: IpAddr) -> bool {
        let Some(set) = self.set(v6, "inbound") else { return false };
        let address = Key::new().ip(to).first;
        set.elements.keys().any(|key| {
            let (first, last) = (key.first.get(16..), key.last.get(16..));
            first.is_some_and(|f| f <= address.as_slice()) && last.is_some_and(|l| address.as_slice() <= l)
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}
