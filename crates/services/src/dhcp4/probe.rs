//! Looks whether an address is free before it is given out (RFC 2131, section 2.2), by asking for it as RFC 5227 does.

use std::{collections::BTreeMap, net::Ipv4Addr, rc::Rc, time::Duration};

use viaduct_plan::Client;
use viaduct_types::{IfName, MacAddr};
use viaduct_wire::{
    arp::{self, Arp},
    dhcp4::Request,
    udp4::Way,
};

use super::Asked;
use crate::Frame;

/// How long an answer is waited for, twice. The first retry of a client comes after three seconds or more.
const PATIENCE: Duration = Duration::from_millis(200);
/// So many questions are asked.
const QUESTIONS: u8 = 2;
/// So many addresses are looked for at a time; others wait until their client asks again.
const AT_ONCE: usize = 1024;

type Key = (IfName, MacAddr);

/// A client that waits for its offer.
pub(super) struct Waiting {
    device: IfName,
    own: MacAddr,
    way: Way,
    request: Request,
    client: Rc<Client>,
}

impl Waiting {
    pub(super) fn new(asked: &Asked<'_>) -> Self {
        Self {
            device: asked.device.clone(),
            own: asked.own,
            way: asked.way,
            request: asked.request.clone(),
            client: asked.client.clone(),
        }
    }

    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            device: &self.device,
            own: self.own,
            way: self.way,
            request: self.request.clone(),
            client: self.client.clone(),
        }
    }

    fn question(&self) -> Frame {
        Frame { device: self.device.clone(), bytes: arp::probe(self.own, self.client.address.addr()) }
    }
}

/// What is to be done.
pub(super) enum Step {
    Ask(Frame),
    Free(Box<Waiting>),
}

struct Probe {
    waiting: Waiting,
    asked: u8,
    due: Duration,
}

#[derive(Default)]
pub(super) struct Probes {
    running: BTreeMap<Key, Probe>,
    free: BTreeMap<Key, Ipv4Addr>,
}

impl Probes {
    /// Whether nobody answered for the address of this client.
    pub(super) fn is_free(&self, device: &IfName, mac: MacAddr) -> bool {
        self.free.contains_key(&(device.clone(), mac))
    }

    /// Begins to look, and gives the first question; none when it looks already.
    pub(super) fn begin(&mut self, now: Duration, waiting: Waiting) -> Option<Frame> {
        let key = (waiting.device.clone(), waiting.client.mac);
        if let Some(probe) = self.running.get_mut(&key) {
            // The latest question is the one that the client waits for an answer to.
            probe.waiting = waiting;
            return None;
        }
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let question = waiting.question();
        self.running.insert(key, Probe { waiting, asked: 1, due: now + PATIENCE });
        Some(question)
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Duration> {
        self.running.values().map(|probe| probe.due).min()
    }

    /// What is due.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        for (_, mut probe) in self.running.extract_if(.., |_, probe| probe.due <= now).collect::<Vec<_>>() {
            let key = (probe.waiting.device.clone(), probe.waiting.client.mac);
            if probe.asked < QUESTIONS {
                steps.push(Step::Ask(probe.waiting.question()));
                probe.asked += 1;
                probe.due = now + PATIENCE;
                self.running.insert(key, probe);
            } else {
                self.free.insert(key, probe.waiting.client.address.addr());
                steps.push(Step::Free(Box::new(probe.waiting)));
            }
        }
        steps
    }

    /// Somebody spoke: who waits for an address that is taken, then, waits no longer.
    pub(super) fn taken(&mut self, device: &IfName, arp: &Arp) -> Option<Waiting> {
        let is_meant = |(on, mac): &Key, probe: &Probe| {
            on == device && probe.waiting.client.address.addr() == arp.sender && *mac != arp.sender_mac
        };
        let key =
            self.running.iter().find(|(key, probe)| is_meant(key, probe)).map(|(key, _)| key.clone())?;
        self.running.remove(&key).map(|probe| probe.waiting)
    }

    /// Forgets what is no longer true of a device.
    pub(super) fn retain(&mut self, device: &IfName, keep: impl Fn(MacAddr, Ipv4Addr) -> bool) {
        self.running
            .retain(|(on, mac), probe| on != device || keep(*mac, probe.waiting.client.address.addr()));
        self.free.retain(|(on, mac), address| on != device || keep(*mac, *address));
    }
}
