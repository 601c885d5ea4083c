//! Who else bridges the same segment into a vnet: one of them keeps out.

use std::time::Duration;

use tracing::{info, warn};
use viaduct_types::{HostKey, VnetId};
use viaduct_vnet_proto::data::{MOST_MARKS, Mark, Segment};

use super::{
    engine::{Engine, Vnet},
    link::Link,
};

/// How often each host says that it is there.
const INTERVAL: Duration = Duration::from_secs(1);
/// At the most, however often others say so.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Of whom nothing has been heard for so long, it is not there any more.
const SILENCE: Duration = Duration::from_secs(5);

/// What only the two ends of a connection can compute (RFC 8446, section 7.5).
fn mark(link: &Link, from: HostKey, vnet: VnetId) -> Option<Mark> {
    let mut mark = Mark::default();
    let context = [&from.0[..], &vnet.to_bytes()].concat();
    link.connection.export_keying_material(&mut mark, b"EXPORTER-viaduct-segment", &context).ok()?;
    Some(mark)
}

impl Vnet {
    /// Why this host keeps out of it.
    pub(super) fn kept_out(&self, name: impl Fn(&HostKey) -> Option<String>) -> Option<String> {
        let (beside, _) = self.beside?;
        let name = name(&beside).unwrap_or_else(|| beside.to_string());
        Some(format!("{name} bridges the same segment into it; as long as it does, this host does not"))
    }
}

impl Engine {
    /// Says so where it is time, and comes back where nobody has said so for a while.
    pub(super) fn tick_segments(&mut self) {
        let now = self.now();
        let mut is_free = false;
        for vnet in self.vnets.values_mut() {
            if vnet.beside.is_some_and(|(_, heard)| now.saturating_sub(heard) > SILENCE) {
                info!("vnet {}: nobody else bridges its segment any more", vnet.name);
                vnet.beside = None;
                is_free = true;
            }
        }
        if is_free {
            self.configure();
        }
        let is_due = |vnet: &Vnet| vnet.said.is_none_or(|said| now.saturating_sub(said) >= INTERVAL);
        let due: Vec<VnetId> =
            self.vnets.iter().filter(|(_, vnet)| is_due(vnet)).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.say_segment(id));
    }

    /// Says on the vnet's own segment that this host bridges it.
    pub(super) fn say_segment(&mut self, id: VnetId) {
        let (own, now) = (self.identity.public(), self.now());
        let Some(orders) = self.orders.vnets.get(&id).filter(|orders| orders.learning) else { return };
        let links = orders.peers.iter().filter_map(|name| {
            let key = self.orders.peers.get(name)?.key;
            self.links.get(&self.peers.get(&key)?.session?)
        });
        let marks: Vec<Mark> = links.filter_map(|link| mark(link, own, id)).collect();
        let Some(vnet) = self.vnets.get_mut(&id).filter(|vnet| vnet.carried && vnet.plain.is_none()) else {
            return;
        };
        // Who keeps out says nothing: it bridges nothing.
        if vnet.beside.is_some() {
            return;
        }
        vnet.said = Some(now);
        for marks in marks.chunks(MOST_MARKS) {
            let _ = self.handle.deliver(id, Segment { host: own, marks: marks.to_vec() }.frame());
        }
    }

    /// Somebody says on the vnet's segment that it bridges it, too.
    pub(super) fn heard_segment(&mut self, id: VnetId, frame: &[u8]) {
        let (own, now) = (self.identity.public(), self.now());
        let Some(segment) = Segment::read(frame) else { return };
        let other = segment.host;
        let is_learning = self.orders.vnets.get(&id).is_some_and(|orders| orders.learning);
        let Some(peer) = self.peers.get(&other).filter(|_| is_learning) else { return };
        let link = peer.session.and_then(|session| self.links.get(&session));
        let expected = link.and_then(|link| mark(link, other, id));
        if !expected.is_some_and(|expected| segment.marks.contains(&expected)) {
            return;
        }
        let Some(vnet) = self.vnets.get_mut(&id) else { return };
        if own < other {
            // It keeps out as soon as it hears of this host.
            if vnet.said.is_none_or(|said| now.saturating_sub(said) > AT_ONCE) {
                self.say_segment(id);
            }
            return;
        }
        let before = vnet.beside.replace((other, now));
        if before.is_none() {
            warn!(
                "vnet {}: peer {} bridges the same segment into it, so this host does not: frames would go round",
                vnet.name, peer.name
            );
            self.configure();
        }
    }
}
