//! Machines behind the bridges of vnets that nobody has told of: heard there, or said to be there.

use tracing::{debug, warn};
use viaduct_types::{MacAddr, VnetId};

use super::{engine::Engine, fdb, watch::ACCUSED};

/// Why a machine is not taken note of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NotTaken {
    #[error("it is attached at another host, which keeps it")]
    Elsewhere,
    #[error(
        "it is nobody's here, and this vnet knows NICs only that are attached; `learning = true` in its table takes others"
    )]
    NotLearning,
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
        let vnet = self.vnets.get_mut(&id).ok_or(NotTaken::NotCarried)?;
        if vnet.own.contains(&mac) || vnet.learned.contains(mac) {
            return Ok(());
        }
        if !is_learning {
            return Err(NotTaken::NotLearning);
        }
        if vnet.tables.is_attached_elsewhere(mac) {
            return Err(NotTaken::Elsewhere);
        }
        debug!("vnet {}: {mac} is behind the bridge", vnet.name);
        vnet.learned.hear(mac);
        Ok(())
    }

    /// Somebody says that a machine is here, or is not until it is heard; why it is not so, if it is not.
    pub(super) fn told_of(&mut self, id: VnetId, mac: MacAddr, here: bool) -> Result<(), String> {
        if here {
            self.take(id, mac).map_err(|error| format!("{mac}: {error}"))
        } else {
            self.unlearn(id, mac)
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
