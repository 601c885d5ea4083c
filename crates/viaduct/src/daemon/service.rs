//! What the service manager is told (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;

/// The manager that started us, if one did.
pub(super) struct Service {
    /// How often it wants to hear that we live.
    watchdog: Option<Duration>,
}

impl Service {
    pub(super) fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How long may pass between two signs of life.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 3)
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    pub(super) fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Whoever does not listen does not need to know.
    let _ = sd_notify::notify(states);
}
