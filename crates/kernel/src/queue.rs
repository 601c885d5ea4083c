//! Requests that wait to be sent together, each with the step of the plan that it is for.

use std::collections::BTreeSet;

use viaduct_types::IfName;

use crate::{
    error::{KernelError, Refusal},
    netns::{Netns, Sockets},
    socket::{Request, Socket},
};

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// This host.
    #[default]
    Host,
    /// The namespace at a path.
    Guest(String),
}

/// One request of a step; a step may have several.
pub(crate) struct Step {
    /// Which step of the plan.
    pub(crate) op: usize,
    pub(crate) request: Request,
    /// The refusals that are as good as success: what was to go had gone.
    pub(crate) fine: &'static [i32],
    /// The link that the same step made, which must not stay if this request fails.
    pub(crate) undo: Option<u32>,
}

/// How a request ended.
pub(crate) struct Outcome {
    pub(crate) op: usize,
    pub(crate) refusal: Refusal,
    pub(crate) undo: Option<u32>,
}

/// Waiting requests, all for one place.
#[derive(Default)]
pub(crate) struct Queue {
    place: Place,
    steps: Vec<Step>,
    /// Namespaces that requests name by descriptor: open until those are sent.
    open: Vec<Netns>,
    /// Links that waiting requests will make: nobody knows their ifindex yet.
    making: BTreeSet<IfName>,
}

impl Queue {
    /// What is sent at once. All requests of one step must go in one system call, which happens whole even when this
    /// process is killed in it, so that no link is left without the alias that says whose it is.
    const STEPS: usize = 240;
    /// File descriptors are few by default.
    const OPEN: usize = 100;

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether something has to be sent before a request for this place can be put in.
    pub(crate) fn is_elsewhere(&self, place: &Place) -> bool {
        !self.is_empty() && self.place != *place
    }

    pub(crate) fn is_full(&self) -> bool {
        self.steps.len() >= Self::STEPS || self.open.len() >= Self::OPEN
    }

    pub(crate) fn is_making(&self, name: &IfName) -> bool {
        self.making.contains(name)
    }

    pub(crate) fn put(&mut self, place: Place, step: Step) {
        self.place = place;
        self.steps.push(step);
    }

    /// Remembers that a link of this name is being made.
    pub(crate) fn make(&mut self, name: IfName, netns: Option<Netns>) {
        self.making.insert(name);
        self.open.extend(netns);
    }

    /// Sends everything and gives what was refused.
    pub(crate) fn send(
        &mut self,
        host: &mut Socket,
        guests: &mut Sockets,
    ) -> Result<Vec<Outcome>, (KernelError, Vec<usize>)> {
        let Self { place, steps, open, .. } = std::mem::take(self);
        let (mut whose, mut requests) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
        for Step { op, request, fine, undo } in steps {
            whose.push((op, fine, undo));
            requests.push(request);
        }
        let answers = match place {
            Place::Host => host.batch(&requests),
            Place::Guest(path) => guests
                .with(&path, |socket| socket.batch(&requests))
                .map_err(|error| (error, whose.iter().map(|(op, ..)| *op).collect()))?,
        };
        drop(open);
        Ok(whose
            .into_iter()
            .zip(answers)
            .filter_map(|((op, fine, undo), answer)| match answer {
                Err(refusal) if !fine.contains(&refusal.errno) => Some(Outcome { op, refusal, undo }),
                Ok(()) | Err(_) => None,
            })
            .collect())
    }
}
