//! What differs between two desired states of a few guests, and the steps from one to the other.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_model::Config;
use viaduct_types::{IfName, NamespaceName, NicId};

use super::{AskPart, Reduced};
use crate::{
    desired::{Desired, Notice, Served, ServedChange, Severity, sort},
    diff::plan,
    nft::Change,
    op::Op,
    shown::Plan,
    stacks::given,
    state::{Attachments, Link, Observed, ObservedGuest, Target},
};

/// The part of a host that a change is about.
#[derive(Debug)]
pub struct Section {
    /// What was there of it, as far as it is not looked at again: the filter.
    before: Desired,
    /// What is to be there, nothing else.
    after: Desired,
    ask: AskPart,
    /// What the ground had of the guests.
    guests: BTreeMap<NicId, ObservedGuest>,
    /// What guests are told otherwise than before.
    served: ServedChange,
    /// What is to be said since the change, and no longer.
    notices: [Vec<Notice>; 2],
    stack: Option<NamespaceName>,
}

impl Section {
    pub(super) fn new(reduced: &Reduced<'_>, ground: &Observed) -> Option<Self> {
        let small = &reduced.small;
        let before_ground = supposed(reduced, &small.before.1, ground, |_| true);
        let after_ground =
            supposed(reduced, &small.after.1, ground, |nic| !reduced.changed.contains(&nic.guest));
        let side = |(config, attachments): &(Config, Attachments), ground: &Observed| {
            reduced.desired(config, attachments, ground)
        };
        let (before, known) = side(&small.before, &before_ground);
        let (after, said) = side(&small.after, &after_ground);
        // What ended just now is for a look at the whole host to find.
        let ended = after.stale.iter().any(|nic| reduced.changed.contains(&nic.guest));
        if ended || said.iter().any(|notice| notice.severity == Severity::Error) {
            return None;
        }
        let only = |list: &[Notice], other: &[Notice]| -> Vec<Notice> {
            list.iter().filter(|n| !other.iter().any(|o| o.text == n.text)).cloned().collect()
        };
        let notices = [only(&said, &known), only(&known, &said)];
        if before.moves != after.moves || before.namespaces != after.namespaces {
            return None;
        }
        let served = before.served.change_to(&after.served);
        let (after, ask) = section(&before, after)?;
        let guests = ground.guests.clone();
        let stack = reduced.stack().cloned();
        Some(Self { before, after, ask, guests, served, notices, stack })
    }

    /// What to look at.
    pub fn ask(&self) -> &AskPart {
        &self.ask
    }

    /// What guests are told otherwise than before, when they ask.
    pub fn served(&self) -> &ServedChange {
        &self.served
    }

    /// What is to be said of the whole host after the change, if this was to be said before.
    pub fn notices(&self, before: &[Notice]) -> Vec<Notice> {
        let [new, gone] = &self.notices;
        let stays = |notice: &&Notice| !gone.iter().any(|gone| gone.text == notice.text);
        let mut notices: Vec<Notice> = before.iter().filter(stays).chain(new).cloned().collect();
        sort(&mut notices);
        notices
    }

    /// The steps, given what was asked for. None when they would be more than a part.
    pub fn plan(&self, mut observed: Observed) -> Option<Plan> {
        observed.nft.clone_from(&self.before.nft);
        observed.guests.clone_from(&self.guests);
        observed.guests.retain(|nic, _| self.after.guests.contains_key(nic));
        // Nor are devices that moved into namespaces.
        observed.moved.clear();
        let plan = plan(&observed, &self.after);
        let partial = |change: &Change| match change {
            Change::AddElements { .. } | Change::DeleteElements { .. } => true,
            Change::AddTable(..)
            | Change::DeleteTable(_)
            | Change::AddParts(..)
            | Change::DeleteParts(..)
            | Change::ReplaceRules { .. } => false,
        };
        let fits = |op: &Op| !matches!(op, Op::Nft(changes) if !changes.iter().all(partial));
        plan.ops.iter().all(fits).then(|| self.placed(plan))
    }

    /// In the stack that it is about.
    fn placed(&self, plan: Plan) -> Plan {
        let Some(namespace) = &self.stack else { return plan };
        let within = |op| Op::Within { namespace: namespace.clone(), op: Box::new(op) };
        Plan { ops: plan.ops.into_iter().map(within).collect() }
    }
}

/// The ground with what is taken for granted of guests: that those that nobody looked at are where they were.
pub(super) fn supposed(
    reduced: &Reduced<'_>,
    attachments: &Attachments,
    ground: &Observed,
    taken_for_granted: impl Fn(&NicId) -> bool,
) -> Observed {
    let mut ground = ground.clone();
    if let Some(namespace) = reduced.namespace() {
        ground = given(ground, namespace);
    }
    let there = attachments.iter().filter(|(nic, _)| taken_for_granted(nic) && !reduced.stale.contains(*nic));
    for (nic, target) in there {
        match target {
            Target::Netns { .. } => {
                ground.guests.entry(nic.clone()).or_default();
            }
            Target::Device { name } => {
                ground.links.entry(name.clone()).or_insert_with(|| Link::plain(0));
            }
            Target::Tap { .. } => {}
        }
    }
    // Where one that led nowhere is attached, nothing was made, whatever is there now.
    let led_nowhere = |nic: &NicId| taken_for_granted(nic) && reduced.stale.contains(nic);
    ground.guests.retain(|nic, _| !led_nowhere(nic) && attachments.contains_key(nic));
    ground
}

/// What of `after` is to be compared with the host, and what to look at for that: what differs, and everything that
/// stands on a link that differs, for it may be made anew.
fn section(before: &Desired, after: Desired) -> Option<(Desired, AskPart)> {
    let links: BTreeSet<IfName> = before
        .links
        .keys()
        .chain(after.links.keys())
        .filter(|l| before.links.get(*l) != after.links.get(*l))
        .cloned()
        .collect();
    // Uplinks are no matter of guests.
    let theirs = |name: &IfName| {
        let link = |side: &Desired| side.links.get(name).is_some_and(|link| link.alias.is_none());
        link(before) || link(&after)
    };
    if links.iter().any(theirs) {
        return None;
    }
    let on_link = |link: &IfName| links.contains(link);
    let on_vlans = |name: &IfName| after.links.get(name).is_some_and(|link| link.vlans.is_some());
    let mut ask = AskPart { links: links.clone(), vlans: links.iter().any(on_vlans), ..AskPart::default() };

    let addresses = after
        .addresses
        .iter()
        .filter(|(address, scope)| on_link(&address.link) || before.addresses.get(*address) != Some(*scope));
    let addresses: BTreeMap<_, _> = addresses.map(|(a, scope)| (a.clone(), *scope)).collect();
    let gone = before.addresses.keys().filter(|a| !after.addresses.contains_key(*a));
    ask.addresses = gone.chain(addresses.keys()).cloned().collect();

    let on = |link: Option<&IfName>| link.is_some_and(on_link);
    let routes: BTreeSet<_> = after
        .routes
        .iter()
        .filter(|route| on(route.link.as_ref()) || !before.routes.contains(*route))
        .cloned()
        .collect();
    ask.routes = before.routes.difference(&after.routes).chain(&routes).cloned().collect();

    let proxies: BTreeSet<_> = after
        .proxies
        .iter()
        .filter(|proxy| on_link(&proxy.link) || !before.proxies.contains(*proxy))
        .cloned()
        .collect();
    let announced: BTreeMap<_, _> = after
        .announced
        .iter()
        .filter(|(proxy, mac)| before.announced.get(*proxy) != Some(*mac))
        .map(|(proxy, mac)| (proxy.clone(), *mac))
        .collect();
    ask.proxies =
        before.proxies.difference(&after.proxies).chain(&proxies).chain(announced.keys()).cloned().collect();

    let unicast: BTreeSet<_> = after.unicast.difference(&before.unicast).cloned().collect();
    ask.unicast = before.unicast.difference(&after.unicast).chain(&unicast).cloned().collect();

    let of_link = |path: Option<&str>| path.is_some_and(|path| links.iter().any(|l| l.as_str() == path));
    let sysctls: BTreeMap<_, _> = after
        .sysctls
        .iter()
        .filter(|(key, setting)| of_link(key.link()) || before.sysctls.get(*key) != Some(*setting))
        .map(|(key, setting)| (key.clone(), setting.clone()))
        .collect();
    let unset = before.sysctls.iter().filter(|(key, _)| !after.sysctls.contains_key(*key));
    ask.journal = unset
        .chain(after.sysctls.iter().filter(|(key, _)| sysctls.contains_key(*key)))
        .filter(|(_, s)| s.journal)
        .map(|(key, _)| key.clone())
        .collect();
    ask.sysctls = sysctls.keys().cloned().collect();

    let guests: BTreeMap<_, _> = after
        .guests
        .iter()
        .filter(|(nic, guest)| on_link(&guest.host_device) || before.guests.get(*nic) != Some(*guest))
        .map(|(nic, guest)| (nic.clone(), guest.clone()))
        .collect();
    let links = after.links.into_iter().filter(|(name, _)| links.contains(name)).collect();
    let after = Desired {
        links,
        moves: BTreeMap::new(),
        addresses,
        routes,
        proxies,
        unicast,
        sysctls,
        guests,
        // They are no matter of guests, either.
        namespaces: BTreeMap::new(),
        nft: after.nft,
        announced,
        // It has no part in the kernel.
        served: Served::default(),
        stale: after.stale,
        stacks: Vec::new(),
    };
    Some((after, ask))
}
