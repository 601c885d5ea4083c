//! What the service manager is told (sd_notify(3)).

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The manager that started us, if one did.
#[derive(Clone, Copy)]
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

    /// Tells in the course of long work that it goes on.
    pub(super) fn heart(self) -> Heart {
        Heart { service: self, last: Instant::now() }
    }

    pub(super) fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Signs of life in the course of work; it beats with each step that is done, and is heard as often as is asked for.
pub(super) struct Heart {
    service: Service,
    last: Instant,
}

impl Heart {
    pub(super) fn beat(&mut self) {
        if self.service.interval().is_some_and(|interval| self.last.elapsed() >= interval) {
            self.last = Instant::now();
            self.service.alive();
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Whoever does not listen does not need to know.
    let _ = sd_notify::notify(states);
}
