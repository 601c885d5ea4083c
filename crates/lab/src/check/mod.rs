//! Finds out whether a sentence is true, with real packets.

mod ears;
mod forge;
mod frames;
mod packets;
mod ping;
mod reach;
mod resolve;
mod run;

use std::{io, os::fd::AsFd, time::Duration};

use crate::{
    file::{Lab, Name},
    inventory::{Card, Inventory},
    sentence::Sentence,
    world::World,
};

/// How long an answer may take that has to come.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long is waited for an answer that must not come: longer than a first retransmission (RFC 6298: 1 s).
const SILENCE: Duration = Duration::from_millis(1200);

/// Between two tries of something that may get lost.
const AGAIN: Duration = Duration::from_millis(250);

/// What there is to know about the lab while its sentences are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'l> {
    pub(crate) lab: &'l Lab,
    pub(crate) world: &'l World,
    pub(crate) inventory: &'l Inventory,
}

/// What was found out.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) holds: bool,
    pub(crate) detail: String,
}

impl Finding {
    fn fails(detail: impl Into<String>) -> Self {
        Self { holds: false, detail: detail.into() }
    }
}

impl Scene<'_> {
    /// Finds it out; an error means that it could not be.
    pub(crate) fn check(self, sentence: &Sentence) -> io::Result<Finding> {
        match sentence {
            Sentence::Reach(reach) => self.reach(reach),
            Sentence::Frames(frames) => self.frames(frames),
            Sentence::Resolve(resolve) => self.resolve(resolve),
            Sentence::Forge(forge) => self.forge(forge),
            Sentence::Run(run) => self.run(run),
        }
    }

    fn cards(&self, machine: &Name) -> &[Card] {
        self.inventory.cards(machine)
    }

    /// Runs the closure in a thread that is inside of the machine's network namespace.
    fn inside<T: Send>(&self, machine: &Name, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        crate::world::inside(self.world.machines[machine].net.as_fd(), work)
    }
}
