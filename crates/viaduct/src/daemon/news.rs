//! What happens on the host, for whoever listens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::operations::{Drops, Repair};

/// So many pieces of news wait for a slow listener; then it loses the oldest, and is told so.
const KEPT: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// Somebody had the host changed.
    Changed {
        /// By which command.
        action: String,
        /// By which user.
        by: String,
    },
    /// The daemon put right what somebody else had changed.
    Repaired(Repair),
    /// Another program keeps changing this; it is left alone for a while.
    Disputed {
        /// What.
        object: String,
        /// For so many seconds.
        seconds: u64,
    },
    /// The host cannot be made as it should be.
    Failed {
        /// Why.
        error: String,
    },
    /// A NIC whose namespace or device is gone is no longer attached.
    Detached {
        /// Which.
        nic: String,
    },
    /// Packets of this device were dropped since the last such event.
    Dropped {
        /// The device.
        device: String,
        /// The namespace that it is in, if not on the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// By reason.
        drops: Drops,
    },
    /// So many events were lost, since they were not read in time.
    Lost {
        /// How many.
        events: u64,
    },
}

/// Tells everybody who listens.
#[derive(Clone)]
pub(super) struct News(broadcast::Sender<Event>);

impl Default for News {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl News {
    pub(super) fn tell(&self, event: Event) {
        // It fails when nobody listens.
        let _ = self.0.send(event);
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    pub(super) fn anybody(&self) -> bool {
        self.0.receiver_count() > 0
    }
}
