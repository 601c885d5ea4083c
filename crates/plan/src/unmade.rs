//! What must not be done after a link could not be made: whatever else has its name is not ours.

use std::collections::BTreeSet;

use viaduct_types::IfName;

use crate::op::{LinkChange, NewLink, Op};

/// The links that a run was to make and did not.
#[derive(Clone, Debug, Default)]
pub struct Unmade {
    links: BTreeSet<IfName>,
    /// Far ends: the namespace's path, and the name there.
    inside: BTreeSet<(String, IfName)>,
}

impl Unmade {
    /// A step has failed.
    pub fn failed(&mut self, op: &Op) {
        if let Op::AddLink { name, link, .. } = op {
            self.links.insert(name.clone());
            if let NewLink::Veth { netns, peer, .. } = link {
                self.inside.insert((netns.clone(), peer.clone()));
            }
        }
    }

    /// The name, if a step is about one of these.
    pub fn needed(&self, op: &Op) -> Option<IfName> {
        if let Op::SetSysctl { key, .. } = op {
            return self.links.iter().find(|name| key.link() == Some(name.as_str())).cloned();
        }
        self.named(op).cloned()
    }

    fn named<'a>(&self, op: &'a Op) -> Option<&'a IfName> {
        let link = |name: &'a IfName| self.links.contains(name).then_some(name);
        match op {
            Op::SetLink { name, change: LinkChange::Master(Some(master)) } => {
                link(name).or_else(|| link(master))
            }
            Op::SetLink { name, .. } => link(name),
            Op::AddAddress { address, .. } => link(&address.link),
            Op::AddRoute(route) => route.link.as_ref().and_then(link),
            Op::AddProxy(proxy) => link(&proxy.link),
            Op::AddUnicast(name, _) | Op::Announce { link: name, .. } => link(name),
            Op::Guest { netns, device, .. } => {
                self.inside.contains(&(netns.clone(), device.clone())).then_some(device)
            }
            Op::SetSysctl { .. }
            | Op::Nft(_)
            | Op::RestoreSysctl { .. }
            | Op::AddLink { .. }
            | Op::DeleteLinks(_)
            | Op::DeleteAddress(_)
            | Op::DeleteRoute(_)
            | Op::DeleteProxy(_)
            | Op::DeleteUnicast(..)
            | Op::Namespace { .. }
            | Op::EndFlows { .. }
            | Op::Within { .. } => None,
        }
    }
}
