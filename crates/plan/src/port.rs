//! What the plan needs of the world: to look at it, and to change it. The kernel crate implements both over netlink,
//! tests over a simulated kernel.

use crate::{
    op::Op,
    state::{Ask, Flow, Observed},
};

/// Looks at a host.
pub trait Observe {
    /// Why it could not.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Reads everything, and what `ask` adds to it.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    fn observe(&mut self, ask: &Ask) -> Result<Observed, Self::Error>;
}

/// Changes a host.
pub trait Apply {
    /// Why it could not.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does the steps in order and says how each went: one result per step. A step that fails does not stop the
    /// others, except that after a failed [`Op::Nft`] nothing more is done (every later step fails with its error):
    /// no packet flows past a filter that is not there.
    ///
    /// `keep` says of a flow whether the new filter lets it live; asked at [`Op::EndFlows`].
    fn apply(
        &mut self,
        ops: &[Op],
        keep: &dyn Fn(&Flow) -> bool,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), Self::Error>>;
}
