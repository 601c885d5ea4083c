//! Machines behind the bridges of vnets that nobody has told of: heard there, or said to be there.

use std::{io, time::Duration};

use tracing::{debug, warn};
use viaduct_types::{MacAddr, VnetId};

use super::{
    engine::{Engine, Vnet},
    fdb,
    learned::AGEING,
    watch::ACCUSED,
};

/// Why a machine is not taken note of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NotTaken {
    #[error("it is attached at another host, which keeps it")]
    Elsewhere,
    #[error(
        "it is nobody's here, and this vnet knows NICs only that are attached; `learning = true` in its table takes others"
    )]
    NotLearning,
    #[error("another host bridges the same segment, and this one keeps out of the vnet meanwhile")]
    Out,
    #[error("it is heard here and at another host by turns, and stays there for a while")]
    ByTurns,
    #[error("no such vnet is carried")]
    NotCarried,
}

impl Engine {
    /// A machine speaks that nobody has told of: where such machines may be, it is claimed soon as if it had just arrived.
    pub(super) fn learn(&mut self, id: VnetId, mac: MacAddr) {
        match self.take(id, mac) {
            Ok(()) => {}
            Err(error @ NotTaken::Elsewhere) => {
                let now = self.now();
                let Some(vnet) = self.vnets.get_mut(&id) else { return };
                if vnet.accused.is_none_or(|last| now.saturating_sub(last) >= ACCUSED) {
                    vnet.accused = Some(now);
                    warn!("vnet {}: {mac} is heard here: {error}", vnet.name);
                }
            }
            Err(error) => debug!("vnet {id}: frames of {mac} are dropped: {error}"),
        }
    }

    fn take(&mut self, id: VnetId, mac: MacAddr) -> Result<(), NotTaken> {
        let is_learning = self.orders.vnets.get(&id).is_some_and(|orders| orders.learning);
        let now = self.now();
        let vnet = self.vnets.get_mut(&id).ok_or(NotTaken::NotCarried)?;
        if vnet.own.contains(&mac) || vnet.learned.contains(mac) {
            return Ok(());
        }
        if !is_learning {
            return Err(NotTaken::NotLearning);
        }
        // What the other host lets out there is heard as what speaks there itself, and is behind any host of the vnet.
        if vnet.bridging.is_out() {
            return Err(NotTaken::Out);
        }
        if vnet.tables.is_attached_elsewhere(mac) {
            return Err(NotTaken::Elsewhere);
        }
        let elsewhere = vnet.tables.peer_of(mac);
        if elsewhere.is_some() && vnet.flips.stays(mac) {
            return Err(NotTaken::ByTurns);
        }
        debug!("vnet {}: {mac} is behind the bridge", vnet.name);
        if vnet.learned.hear(mac)
            && let Some(peer) = elsewhere
            && vnet.flips.taken(now, mac)
            && let Some(peer) = self.peers.values_mut().find(|known| known.id == peer)
            && peer.lines.has_room(now)
        {
            warn!(
                "vnet {}: {mac} is heard here and behind peer {} by turns: two machines have it, or frames go round; from now on \
                 it stays where it is, for three minutes at a time",
                vnet.name, peer.name
            );
        }
        Ok(())
    }

    /// Somebody says that a machine is here, or is not until it is heard; why it is not so, if it is not.
    pub(super) fn told_of(&mut self, id: VnetId, mac: MacAddr, here: bool) -> Result<(), String> {
        if here {
            self.take(id, mac).map_err(|error| format!("{mac}: {error}"))?;
            let now = self.now();
            if let Some(vnet) = self.vnets.get_mut(&id) {
                vnet.learned.heard(now, mac, Duration::ZERO);
            }
            Ok(())
        } else {
            self.unlearn(id, mac)
        }
    }

    /// Machines that have not been heard for as long as their bridge knows those that are not are claimed no longer. The workers see
    /// only who is new: it is the bridge that knows who is heard.
    pub(super) fn age_machines(&mut self) {
        let now = self.now();
        if !self.looks.ages(now) {
            return;
        }
        for vnet in self.vnets.values_mut().filter(|vnet| vnet.carried && !vnet.learned.is_empty()) {
            match age(now, vnet) {
                Ok(0) => {}
                Ok(gone) => {
                    debug!("vnet {}: {gone} machines behind the bridge are not heard any more", vnet.name)
                }
                Err(error) => debug!("vnet {}: {error}", vnet.name),
            }
        }
    }

    fn unlearn(&mut self, id: VnetId, mac: MacAddr) -> Result<(), String> {
        let vnet = self.vnets.get_mut(&id).ok_or_else(|| NotTaken::NotCarried.to_string())?;
        if vnet.own.contains(&mac) {
            return Err(format!(
                "{mac} is a NIC that is attached here, and goes when its guest does: `viaduct detach`"
            ));
        }
        if !vnet.learned.forget(mac) {
            return Err(format!("{mac} is no machine that is behind this host's bridge"));
        }
        // Else it would be found there at the next look, though it has said nothing.
        if let Some(plain) = &vnet.plain {
            let nears = plain.nears(mac).map_err(|error| format!("{mac}: {error}"))?;
            for near in nears {
                fdb::lead_no_more(near).map_err(|error| format!("{mac}: {error}"))?;
            }
        }
        debug!("vnet {}: {mac} is not behind the bridge until it is heard", vnet.name);
        Ok(())
    }
}

/// Forgets those whom the bridge has forgotten; how many.
fn age(now: Duration, vnet: &mut Vnet) -> io::Result<usize> {
    let index = |device| fdb::index(device).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV));
    let tap = index(&vnet.tap)?;
    let second =
        vnet.plain.as_ref().and_then(|plain| plain.orders().second.as_ref()).map(index).transpose()?;
    let Some(bridge) = fdb::bridge_of(tap) else { return Ok(0) };
    // The host itself is behind it, too, and never heard at a port.
    let sent = fdb::frames_out(bridge).unwrap_or(0);
    if vnet.learned.own_has_sent(sent)
        && let Some(own) = fdb::own_mac(bridge)
    {
        vnet.learned.heard(now, own, Duration::ZERO);
    }
    // Where nothing stays in the bridge, that would only mean that each is learned anew with each frame.
    let ageing = fdb::ageing(bridge).filter(|ageing| !ageing.is_zero()).unwrap_or(AGEING);
    let before = |mac| match fdb::heard(bridge, mac) {
        Ok(Some((near, before))) => (near.port != tap && Some(near.port) != second).then_some(before),
        Ok(None) => None,
        // When the bridge cannot be asked, nobody is held to be gone for it.
        Err(_) => Some(Duration::ZERO),
    };
    Ok(vnet.learned.age(now, ageing, before))
}
