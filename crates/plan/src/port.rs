//! What the plan needs of the world: to look at it, and to change it. The kernel crate implements both over netlink,
//! tests over a simulated kernel.

use viaduct_types::NamespaceName;

use crate::{
    op::Op,
    part::AskPart,
    state::{Ask, Flow, Observed},
};

/// Says of a flow in the stack of a namespace, or without one in the host's, whether the new filter lets it live.
pub type Keep<'a> = dyn Fn(Option<&NamespaceName>, &Flow) -> bool + Sync + 'a;

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

/// Looks at a part of a host.
pub trait ObservePart: Observe {
    /// Reads what is asked for and nothing else; not the filter. In the stack of a namespace, or the host's own.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    fn observe_part(&mut self, stack: Option<&NamespaceName>, ask: &AskPart)
    -> Result<Observed, Self::Error>;

    /// A number that stands for the filter of a stack as it was at the last [`Observe::observe`], with what was done by
    /// [`Apply::apply`] since. None when that is not known: somebody else made a transaction.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    fn filter_state(&mut self, stack: Option<&NamespaceName>) -> Result<Option<u32>, Self::Error>;
}

/// Changes a host.
pub trait Apply {
    /// Why it could not.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Does the steps in order and says how each went: one result per step. A step that fails does not stop the
    /// others, except that after a failed [`Op::Nft`] nothing more is done (every later step fails with its error):
    /// no packet flows past a filter that is not there; one of a stack stops what is to be done in that stack. Nor is anything done to what has the name of a link that could
    /// not be made ([`crate::Unmade`]).
    ///
    /// `keep` says of a flow whether the new filter lets it live; asked at [`Op::EndFlows`].
    fn apply(
        &mut self,
        ops: &[Op],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), Self::Error>>;
}
