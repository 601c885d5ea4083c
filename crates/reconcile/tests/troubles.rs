//! Whatever the kernel answers, and whatever somebody else does between any two steps: the host is closed and can be
//! reached, nothing of others is touched, and the run arrives or says what is in its way.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and say why")]

#[path = "../../plan/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;

use common::{
    attach_all, config, host,
    shape::{check_safe, namespace_table, shape},
};
use proptest::prelude::*;
use viaduct_plan::{
    Apply, Ask, Keep, Link, Observe, Observed, Op, Route, RouteKind, Unmade,
    nft::{Family, Ruleset},
    sim::{Host, Refused},
};
use viaduct_reconcile::{Aftermath, Wish, change, converge, look};
use viaduct_types::IfName;

/// What happens, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// EBUSY: the step is not done.
    Busy,
    /// ENOBUFS: it is done, but the answer is lost.
    Unheard,
    /// EEXIST: somebody has made it just before.
    Exists,
    /// One of our links is gone.
    LinkGone,
    /// A guest is gone, with its namespace.
    GuestGone,
    /// Somebody's link comes, with an address.
    ForeignLink,
    /// Somebody's link takes a name that we want.
    NameTaken,
    /// Somebody's route comes.
    ForeignRoute,
    /// Somebody writes a rule of theirs into our table.
    ForeignRule,
    /// Somebody flushes all rules.
    Flushed,
}

const TROUBLES: [Trouble; 10] = [
    Trouble::Busy,
    Trouble::Unheard,
    Trouble::Exists,
    Trouble::LinkGone,
    Trouble::GuestGone,
    Trouble::ForeignLink,
    Trouble::NameTaken,
    Trouble::ForeignRoute,
    Trouble::ForeignRule,
    Trouble::Flushed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Errno {
    #[error("Device or resource busy")]
    Busy,
    #[error("No buffer space available")]
    NoBuffers,
    #[error("File exists")]
    Exists,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Injected(#[from] Errno),
}

/// A host on which something happens before a certain step.
struct Kernel {
    host: Host,
    trouble: Trouble,
    /// How many steps are done before it.
    after: Option<usize>,
    /// What is chosen where there are several.
    choice: usize,
    /// Somebody else has opened the host until the run looks again.
    opened: bool,
    /// What came that is not ours.
    foreign: Option<(IfName, Link)>,
}

impl Observe for Kernel {
    type Error = Error;

    fn observe(&mut self, ask: &Ask) -> Result<Observed, Error> {
        Ok(self.host.observe(ask)?)
    }
}

impl Apply for Kernel {
    type Error = Error;

    fn apply(&mut self, ops: &[Op], keep: &Keep<'_>, _: &mut dyn FnMut(usize)) -> Vec<Result<(), Error>> {
        let (mut closed, mut unmade) = (false, Unmade::default());
        let mut results = Vec::new();
        for op in ops {
            let mut answer = None;
            match self.after {
                Some(0) => {
                    self.after = None;
                    answer = self.happens(op);
                }
                Some(n) => self.after = Some(n - 1),
                None => {}
            }
            let result = if closed || answer == Some(Errno::Busy) || unmade.needed(op).is_some() {
                Err(Errno::Busy.into())
            } else {
                let done = self.host.apply(std::slice::from_ref(op), keep, &mut |_| ()).remove(0);
                match answer {
                    Some(errno) => Err(errno.into()),
                    None => done.map_err(Error::from),
                }
            };
            closed |= result.is_err() && matches!(op, Op::Nft(_));
            if result.is_err() {
                unmade.failed(op);
            }
            results.push(result);
            self.opened &= !self.host.state.nft.tables.contains_key(&Family::Inet);
            if !self.opened {
                check_safe(&self.host);
            }
        }
        results
    }
}

impl Kernel {
    fn new(host: Host, trouble: Trouble, step: usize, choice: usize) -> Self {
        Self { host, trouble, after: Some(step), choice, opened: false, foreign: None }
    }

    fn happens(&mut self, op: &Op) -> Option<Errno> {
        let state = &mut self.host.state;
        match self.trouble {
            Trouble::Busy => return Some(Errno::Busy),
            Trouble::Unheard => return Some(Errno::NoBuffers),
            Trouble::Exists => return Some(Errno::Exists),
            Trouble::LinkGone => {
                let ours: Vec<IfName> =
                    state.links.iter().filter(|(_, l)| l.is_ours()).map(|(name, _)| name.clone()).collect();
                // The bridge of an uplink has the host's address: whoever takes it away cuts the host off.
                let ours: Vec<_> =
                    ours.into_iter().filter(|name| !state.links[name].alias.contains(":uplink:")).collect();
                if let Some(name) = ours.get(self.choice % ours.len().max(1)).cloned() {
                    let gone = [Op::DeleteLinks(vec![name])];
                    self.host.apply(&gone, &|_, _| true, &mut |_| ()).remove(0).unwrap();
                }
            }
            Trouble::GuestGone => self.host.remove_namespace(&format!("/run/netns/g{}", self.choice % 4)),
            Trouble::ForeignLink => {
                let name: IfName = "docker0".parse().unwrap();
                self.host.hardware(&name, None);
                self.host.address(&name, "172.17.0.1/16".parse().unwrap());
                self.foreign =
                    self.host.state.links.get_key_value(&name).map(|(n, l)| (n.clone(), l.clone()));
            }
            Trouble::NameTaken => {
                if let Op::AddLink { name, .. } = op {
                    self.host.hardware(name, None);
                    self.foreign =
                        self.host.state.links.get_key_value(name).map(|(n, l)| (n.clone(), l.clone()));
                }
            }
            Trouble::ForeignRoute => drop(state.routes.insert(foreign_route())),
            Trouble::ForeignRule => {
                if let Some(table) = state.nft.tables.get_mut(&Family::Inet)
                    && let Some(chain) = table.chains.values_mut().next()
                {
                    chain.rules.reverse();
                    chain
                        .rules
                        .push(chain.rules.first().cloned().unwrap_or(viaduct_plan::nft::Rule::new([])));
                }
            }
            Trouble::Flushed => {
                state.nft = Ruleset::default();
                self.opened = true;
            }
        }
        None
    }

    /// What is not ours is as it was.
    fn nothing_foreign_touched(&self) {
        if let Some((name, link)) = &self.foreign {
            assert_eq!(self.host.state.links.get(name), Some(link));
        }
        if self.trouble == Trouble::ForeignLink && self.foreign.is_some() {
            let has = |a: &viaduct_plan::Address| a.address.to_string() == "172.17.0.1/16";
            assert!(self.host.state.addresses.keys().any(has));
        }
        if self.trouble == Trouble::ForeignRoute && self.after.is_none() {
            // It goes with the uplink's cable, into its bridge and back.
            let wanted = foreign_route();
            let same = |r: &&Route| r.destination == wanted.destination && r.protocol == wanted.protocol;
            assert_eq!(self.host.state.routes.iter().filter(same).count(), 1);
        }
    }
}

/// What is told when a check fails.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// As somebody made it by hand.
fn foreign_route() -> Route {
    Route {
        destination: "172.30.0.0/16".parse().unwrap(),
        kind: RouteKind::Unicast,
        link: Some("eth0".parse().unwrap()),
        via: Some("203.0.113.77".parse().unwrap()),
        onlink: false,
        source: None,
        metric: 0,
        protocol: 4,
    }
}

/// A cable to somebody's bridge is in the guests' group until it is told that it is none: when that fails, it comes up
/// in it, and is put right.
#[test]
fn a_cable_to_a_foreign_bridge_survives_each_refusal() {
    let toml = format!("[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{}", namespace_table(1));
    let after = config(&toml);
    let mut start = host();
    let attached = attach_all(&mut start, &after);
    let to = Wish::Be(&after, &attached);
    for (step, op) in look(&mut start, to).unwrap().plan.ops.iter().enumerate() {
        let _context = Context(format!("Busy before step {step}: {op}"));
        let mut kernel = Kernel::new(start.clone(), Trouble::Busy, step, 0);
        change(&mut kernel, None, to, &mut |_, _| ()).unwrap();
        assert!(look(&mut kernel, to).unwrap().plan.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_before_any_step(before in shape(), after in shape(), choice in 0usize..1000) {
        let (before, after) = (config(&before.toml()), config(&after.toml()));
        let mut start = host();
        let (at_first, at_last) = (attach_all(&mut start, &before), attach_all(&mut start, &after));
        let (from, to) = (Wish::Be(&before, &at_first), Wish::Be(&after, &at_last));
        converge(&mut start, from, &mut |_, _| ()).unwrap();
        let steps = look(&mut start, to).unwrap().plan.ops.len();
        for step in 0..steps {
            let mut tried = BTreeSet::new();
            for more in 0..2 {
                let number = (choice + step * 7 + more * 3) % TROUBLES.len();
                if !tried.insert(number) {
                    continue;
                }
                let trouble = TROUBLES[number];
                let mut kernel = Kernel::new(start.clone(), trouble, step, choice + step);
                let _context = Context(format!("{trouble:?} before step {step}"));
                let changed = change(&mut kernel, Some(from), to, &mut |_, _| ());
                kernel.nothing_foreign_touched();
                check_safe(&kernel.host);
                match changed {
                    Ok(_) => {
                        let left = look(&mut kernel, to).unwrap().plan;
                        prop_assert!(left.is_empty(), "{:?} before step {}:\n{}", trouble, step, left);
                    }
                    Err(error) => {
                        let taken = kernel.foreign.as_ref().map(|(name, _)| name.as_str());
                        prop_assert_eq!(trouble, Trouble::NameTaken, "before step {}: {:?}", step, error);
                        // Who reads it knows what is in the way.
                        let told = format!("{:?}", error.cause);
                        prop_assert!(told.contains(taken.unwrap()), "{}", told);
                        prop_assert!(
                            matches!(error.aftermath, Aftermath::Undone | Aftermath::Stuck(_)),
                            "{:?}",
                            error.aftermath
                        );
                        // When it is out of the way, all is well.
                        let name = taken.unwrap().parse().unwrap();
                        let gone = [Op::DeleteLinks(vec![name])];
                        kernel.host.apply(&gone, &|_, _| true, &mut |_| ()).remove(0).unwrap();
                        converge(&mut kernel, to, &mut |_, _| ()).unwrap();
                    }
                }
            }
        }
    }
}
