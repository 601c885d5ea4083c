//! Flows that were let through once. To the connection tracking a flow is new until it is answered, so that each packet
//! of one that never is would be judged like its first. What lets a flow through puts a label on it, and a flow with
//! the label passes as one that is established does; what ends flows ends those, too (see `flows`).
//!
//! The label says which way the flow was let through, and counts for that way only: it does not follow an address that
//! has moved from outside to a guest, nor a packet that somebody else sends in the flow's name from another side. It is
//! set where the policy says yes and nowhere else, so a flow that was tracked on another way has none.

use super::{
    super::{
        context::Context,
        elements::{Builder, words::*},
    },
    families::{FAMILIES, FamilyWords, both},
};
use crate::nft::{Const, Selector as S, Statement as St};

/// Between which sides a flow was let through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// From outside to a guest.
    In,
    /// From guest to guest.
    Between,
    /// From a guest to the outside.
    Out,
}

impl Way {
    /// The chain that lets a flow through.
    fn admission(self) -> &'static str {
        match self {
            Self::In => "admit_in",
            Self::Between => "admit_between",
            Self::Out => "admit_out",
        }
    }

    fn label(self) -> Const {
        Const::label(match self {
            Self::In => 86,
            Self::Between => 87,
            Self::Out => 88,
        })
    }
}

/// What the kernel can remember of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recall {
    labels: bool,
}

impl Recall {
    pub(super) fn new(context: &Context<'_>) -> Self {
        Self { labels: context.observed.features.ct_labels }
    }

    /// Lets a flow through that goes this way, for good.
    pub(super) fn admit(self, way: Way) -> St {
        if self.labels { goto(way.admission()) } else { accept() }
    }

    /// Lets a flow to a guest through, wherever it comes from.
    pub(super) fn admit_to_guest(self) -> St {
        if self.labels { goto("admit_to_guest") } else { accept() }
    }

    /// A rule for the packets of a flow that was let through on this way.
    pub(super) fn known(self, way: Way, end: impl IntoIterator<Item = St>) -> Option<Vec<St>> {
        let remembered = St::Any(S::CtLabel, way.label());
        self.labels.then(|| [remembered].into_iter().chain(end).collect())
    }

    /// The chains that the rules above name.
    pub(super) fn add(self, table: &mut Builder) {
        if !self.labels {
            return;
        }
        for way in [Way::In, Way::Between, Way::Out] {
            // The second packet of TCP is an answer, or the first one again.
            let remember = vec![St::Write(S::CtLabel, way.label()), accept()];
            table.chain(way.admission(), vec![vec![tcp(), accept()], remember]);
        }
        let from_guest = vec![St::In(vec![S::IifName], "inside"), goto(Way::Between.admission())];
        table.chain(
            "admit_to_guest",
            vec![vec![tcp(), accept()], from_guest, vec![goto(Way::In.admission())]],
        );
        // What is refused wherever it would go is left to the rules that count it.
        let confined = St::In(vec![S::IifName], "confined");
        let turned_round = St::NotIn(vec![S::IifName, S::OifName], "redirected");
        // A guest's address does not come from outside while the guest is here, not even as what it was before.
        let pretender = |f: &FamilyWords| {
            vec![(f.is)(), St::In(vec![f.saddr], both!(f, "attached4", "attached6")), goto("refuse_in")]
        };
        table.chain("known_in", vec![pretender(&FAMILIES[0]), pretender(&FAMILIES[1]), vec![accept()]]);
        table.chain(
            "known_between",
            vec![vec![confined, turned_round, back()], vec![St::In(vec![S::OifName], "inside"), accept()]],
        );
    }
}
