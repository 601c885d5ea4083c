//! One connection to a peer, from its handshake to its end.

use std::{collections::BTreeMap, fmt, time::Duration};

use viaduct_types::VnetId;

use super::{Channel, MessageError, Protection, ports::Spread};
use crate::data::esp::Cipher;

/// So many vnets a peer may offer on one connection.
const MOST_OFFERS: usize = 4096;

/// A connection, by a number that no other one of this process has: later ones have higher ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The secret that both ends of a connection share (RFC 8446, section 7.5).
pub trait Exporter {
    /// Sixteen bytes for this label and context; none when the connection is gone.
    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 16]>;
}

/// What a peer did that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It said something that is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It began with something else than who it is.
    #[error("its first message is no greeting, or it greets twice")]
    Greeting,
    /// It speaks another version.
    #[error("it speaks version {0}")]
    Version(u8),
    /// It offers more vnets than anybody has.
    #[error("it offers more than {MOST_OFFERS} vnets")]
    Offers,
    /// It offers keys twice, or not one for each worker.
    #[error("it offers keys that nobody can use")]
    Keys,
    /// The connection gives no secrets.
    #[error("its connection ended")]
    Ended,
}

const MEMBERSHIP: &[u8] = b"EXPORTER-viaduct-membership";

/// What the peer offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) proof: [u8; 16],
    pub(super) protection: Protection,
    pub(super) learning: bool,
}

/// What the peer said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    pub(super) workers: u8,
    pub(super) fast_aes: bool,
}

pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) dialled: bool,
    pub(super) since: Duration,
    exporter: Box<dyn Exporter + Send>,
    pub(super) greeting: Option<Greeting>,
    /// Whether it says when it has done what it was told: hosts of earlier versions do not.
    pub(super) heeds: bool,
    /// What this host has offered.
    pub(super) channels: BTreeMap<VnetId, Channel>,
    next_channel: Channel,
    /// What would prove that the peer has one of those, both ways: it is asked for with each message.
    expected: BTreeMap<[u8; 16], VnetId>,
    proofs: BTreeMap<VnetId, [u8; 16]>,
    /// What the peer has offered, known here or not.
    offers: BTreeMap<Channel, Offer>,
    /// By which number it has offered last what a proof is of.
    offered: BTreeMap<[u8; 16], Channel>,
    /// The last epoch of each vnet, of the keys given and of those taken. It outlives the membership: the same epoch
    /// would be the same key once more.
    epochs: BTreeMap<(VnetId, Way), u32>,
    /// What the last keys seal with that the peer gave, of each vnet, and their epoch.
    pub(super) taken: BTreeMap<VnetId, (u32, Cipher)>,
    /// The last keys that the peer gave for what it is not in.
    pub(super) passed_over: Option<(Channel, u32)>,
    /// The peer's further ports.
    pub(super) spread: Spread,
    /// Whether the peer's version knows of [`Message::Learns`](super::Message::Learns).
    pub(super) knows_learns: bool,
}

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Those that the peer is given.
    Given,
    /// Those that it gave.
    Taken,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, dialled, channels, offers, .. } = self;
        f.debug_struct("Session")
            .field("id", id)
            .field("dialled", dialled)
            .field("channels", channels)
            .field("offers", offers)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        dialled: bool,
        since: Duration,
        exporter: Box<dyn Exporter + Send>,
    ) -> Self {
        Self {
            id,
            dialled,
            since,
            exporter,
            greeting: None,
            heeds: false,
            channels: BTreeMap::new(),
            next_channel: 0,
            expected: BTreeMap::new(),
            proofs: BTreeMap::new(),
            offers: BTreeMap::new(),
            offered: BTreeMap::new(),
            epochs: BTreeMap::new(),
            taken: BTreeMap::new(),
            passed_over: None,
            spread: Spread::default(),
            knows_learns: false,
        }
    }

    /// The epoch of the next keys to give; none when all have been used.
    pub(super) fn next_epoch(&mut self, vnet: VnetId) -> Option<u32> {
        let last = self.epochs.entry((vnet, Way::Given)).or_default();
        *last = last.checked_add(1)?;
        Some(*last)
    }

    /// Whether keys of this epoch have not been taken before, nor later ones.
    pub(super) fn is_next(&mut self, vnet: VnetId, epoch: u32) -> bool {
        let last = self.epochs.entry((vnet, Way::Taken)).or_default();
        let next = epoch > *last;
        *last = epoch.max(*last);
        next
    }

    /// Offers a vnet; none when there are no numbers left, or the connection is gone.
    pub(super) fn offer(&mut self, vnet: VnetId) -> Option<(Channel, [u8; 16])> {
        let (own, theirs) = (self.proof(vnet, self.dialled)?, self.proof(vnet, !self.dialled)?);
        let channel = self.next_channel;
        self.next_channel = channel.checked_add(1)?;
        self.channels.insert(vnet, channel);
        self.expected.insert(theirs, vnet);
        self.proofs.insert(vnet, theirs);
        Some((channel, own))
    }

    /// What shows that who dialled, or who was dialled, knows the id.
    fn proof(&self, vnet: VnetId, by_dialler: bool) -> Option<[u8; 16]> {
        let mut context = [u8::from(by_dialler); 17];
        context[1..].copy_from_slice(&vnet.to_bytes());
        self.exporter.export(MEMBERSHIP, &context)
    }

    pub(super) fn retract(&mut self, vnet: VnetId) -> Option<Channel> {
        if let Some(proof) = self.proofs.remove(&vnet) {
            self.expected.remove(&proof);
        }
        self.channels.remove(&vnet)
    }

    pub(super) fn offered(&mut self, channel: Channel, offer: Offer) -> Result<(), ProtocolError> {
        if self.offers.len() >= MOST_OFFERS && !self.offers.contains_key(&channel) {
            return Err(ProtocolError::Offers);
        }
        self.withdraw(channel);
        self.offers.insert(channel, offer);
        self.offered.insert(offer.proof, channel);
        Ok(())
    }

    pub(super) fn retracted(&mut self, channel: Channel) -> Option<VnetId> {
        let vnet = self.vnet(channel);
        self.withdraw(channel);
        vnet
    }

    fn withdraw(&mut self, channel: Channel) {
        let Some(offer) = self.offers.remove(&channel) else { return };
        if self.offered.get(&offer.proof) == Some(&channel) {
            self.offered.remove(&offer.proof);
        }
    }

    /// Changes what the peer has offered; says of which vnet, if it is known here.
    pub(super) fn set_learning(&mut self, channel: Channel, learning: bool) -> Option<VnetId> {
        self.offers.get_mut(&channel)?.learning = learning;
        self.vnet(channel)
    }

    /// The vnet that the peer's number stands for, if it is known here.
    pub(super) fn vnet(&self, channel: Channel) -> Option<VnetId> {
        self.expected.get(&self.offers.get(&channel)?.proof).copied()
    }

    /// The peer's offer of a vnet.
    pub(super) fn offer_of(&self, vnet: VnetId) -> Option<Offer> {
        self.offers.get(self.offered.get(self.proofs.get(&vnet)?)?).copied()
    }
}
