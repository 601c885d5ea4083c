//! Whatever fails, and whenever: a host is as wanted, or as it was before.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use viaduct_model::{Config, Source};
use viaduct_plan::{
    Apply, Ask, Attachments, Keep, Observe, Observed, Op, Route, RouteKind, Target,
    nft::Family,
    sim::{Host, Refused},
};
use viaduct_reconcile::{Aftermath, ConvergeError, Wish, change, close, converge, look};

const EXAMPLES: &[&str] = &[
    include_str!("../../../examples/openvz/viaduct.toml"),
    include_str!("../../../examples/dedicated-xen/viaduct.toml"),
    include_str!("../../../examples/attacker/viaduct.toml"),
];

/// A simulated host with a trouble.
struct Kernel {
    host: Host,
    trouble: Trouble,
    passes: usize,
}

/// What goes wrong.
enum Trouble {
    Nothing,
    /// This step is always refused.
    Refuses(String),
    /// Somebody does this after each pass.
    Meddles(fn(&mut Host)),
    /// The state cannot be read after so many passes.
    BlindAfter(usize),
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("injected")]
    Injected,
}

impl Observe for Kernel {
    type Error = Error;

    fn observe(&mut self, ask: &Ask) -> Result<Observed, Error> {
        if matches!(self.trouble, Trouble::BlindAfter(passes) if self.passes >= passes) {
            return Err(Error::Injected);
        }
        Ok(self.host.observe(ask)?)
    }
}

impl Apply for Kernel {
    type Error = Error;

    fn apply(
        &mut self,
        ops: &[Op],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), Error>> {
        self.passes += 1;
        let mut closed = false;
        let mut results = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            let refused = matches!(&self.trouble, Trouble::Refuses(step) if *step == op.to_string());
            let result = if closed || refused {
                Err(Error::Injected)
            } else {
                self.host.apply(std::slice::from_ref(op), keep, &mut |_| ()).remove(0).map_err(Error::from)
            };
            closed |= result.is_err() && matches!(op, Op::Nft(_));
            results.push(result);
            progress(number + 1);
        }
        if let Trouble::Meddles(meddle) = self.trouble {
            meddle(&mut self.host);
        }
        results
    }
}

impl Kernel {
    /// A host with eth0 as the system set it up, and the namespaces of every guest.
    fn new(configs: &[&Config]) -> Self {
        let mut host = Host::default();
        let eth0 = "eth0".parse().unwrap();
        host.hardware(&eth0, Some("52:54:00:12:34:56".parse().unwrap()));
        host.address(&eth0, "203.0.113.2/24".parse().unwrap());
        host.state.routes.insert(Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            kind: RouteKind::Unicast,
            link: Some(eth0),
            via: Some("203.0.113.1".parse().unwrap()),
            onlink: false,
            source: None,
            metric: 0,
            protocol: 3,
        });
        for target in configs.iter().flat_map(|config| attachments(config).into_values()) {
            if let Target::Netns { path, .. } = target {
                host.namespace(&path);
            }
        }
        Self { host, trouble: Trouble::Nothing, passes: 0 }
    }

    #[track_caller]
    fn becomes(&mut self, wish: Wish<'_>) {
        converge(self, wish, &mut |_, _| ()).unwrap();
    }

    #[track_caller]
    fn is(&mut self, wish: Wish<'_>) -> bool {
        look(self, wish).unwrap().plan.is_empty()
    }

    /// Its state without numbers that differ from run to run.
    fn comparable(&self) -> Observed {
        let mut state = self.host.state.clone();
        for link in state.links.values_mut() {
            (link.index, link.peer_index) = (0, 0);
        }
        state
    }
}

#[track_caller]
fn assert_same(now: &Observed, was: &Observed, by: &str) {
    assert_eq!(now.addresses, was.addresses, "{by}");
    assert_eq!(now.routes, was.routes, "{by}");
    assert_eq!(now.links, was.links, "{by}");
    assert_eq!(now.proxies, was.proxies, "{by}");
    assert_eq!(now.unicast, was.unicast, "{by}");
    assert_eq!(now.journal, was.journal, "{by}");
    assert!(now == was, "{by}: the filter differs");
}

fn config(text: &str) -> Config {
    let source = Source { name: "viaduct.toml".to_owned(), text: text.to_owned() };
    viaduct_model::load(&[source]).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

/// Each NIC in its guest's namespace.
fn attachments(config: &Config) -> Attachments {
    let target = |path| Target::Netns { path, inode: 1 };
    config.nics().map(|(id, _)| (id.clone(), target(format!("/run/netns/{}", id.guest)))).collect()
}

/// How the step is called that ends flows.
const END_FLOWS: &str = "- flows that are no longer allowed";

/// Tries a change with each of its steps, and each of the steps back, refused for ever.
fn each_step_refused(before: &Config, after: &Config) {
    let (at_first, at_last) = (attachments(before), attachments(after));
    let (from, to) = (Wish::Be(before, &at_first), Wish::Be(after, &at_last));
    let mut kernel = Kernel::new(&[before, after]);
    kernel.becomes(from);
    let was = kernel.comparable();
    let start = kernel.host.clone();
    let steps: BTreeSet<String> = look(&mut kernel, to).unwrap().plan.ops.iter().map(Op::to_string).collect();
    assert!(!steps.is_empty());
    for step in steps {
        let trouble = Trouble::Refuses(step.clone());
        let mut kernel = Kernel { host: start.clone(), trouble, passes: 0 };
        let changed = change(&mut kernel, Some(from), to, &mut |_, _| ());
        kernel.trouble = Trouble::Nothing;
        match changed {
            Ok(_) => assert!(kernel.is(to), "{step}"),
            Err(error) => {
                let ConvergeError::Failed { failures, .. } = &error.cause else {
                    panic!("{step}: {error:?}");
                };
                assert!(failures.iter().any(|f| f.step == step), "{step}: {failures:?}");
                if let (END_FLOWS, Aftermath::Stuck(ConvergeError::Failed { failures, .. })) =
                    (step.as_str(), &error.aftermath)
                {
                    // Neither can flows be ended that came up meanwhile. All else is as it was, and whoever comes next
                    // knows of it.
                    assert!(failures.iter().all(|failure| failure.step == step), "{failures:?}");
                    let left = look(&mut kernel, from).unwrap().plan;
                    assert_eq!(left.lines(), [END_FLOWS]);
                    kernel.becomes(from);
                } else {
                    assert!(matches!(error.aftermath, Aftermath::Undone), "{step}: {:?}", error.aftermath);
                }
                assert!(kernel.is(from), "{step}");
                // An uplink in a bridge needs none of its settings; what it got before it was there may stay.
                let mut now = kernel.comparable();
                now.journal.clone_from(&was.journal);
                assert_same(&now, &was, &step);
            }
        }
        // Nothing is in the way of the next try.
        kernel.becomes(to);
    }
}

#[test]
fn a_refused_step_of_the_first_apply_leaves_nothing() {
    let nothing = config("[host]\nname = \"h\"\n");
    for example in EXAMPLES {
        each_step_refused(&nothing, &config(example));
    }
}

#[test]
fn a_refused_step_of_a_change_leaves_what_was_before() {
    for (before, after) in [(0, 1), (1, 2), (2, 0)] {
        each_step_refused(&config(EXAMPLES[before]), &config(EXAMPLES[after]));
    }
}

#[test]
fn what_fails_once_is_done_in_the_next_pass() {
    let config = config(EXAMPLES[0]);
    let attachments = attachments(&config);
    let wish = Wish::Be(&config, &attachments);
    let mut kernel = Kernel::new(&[&config]);
    let steps = look(&mut kernel, wish).unwrap().plan.ops.len();
    for step in 0..steps {
        let mut kernel = Kernel::new(&[&config]);
        kernel.host.fail_at = Some(step);
        kernel.becomes(wish);
        assert!(kernel.is(wish), "step {step}");
    }
}

#[test]
fn the_second_time_nothing_is_done() {
    for example in EXAMPLES {
        let config = config(example);
        let attachments = attachments(&config);
        let wish = Wish::Be(&config, &attachments);
        let mut kernel = Kernel::new(&[&config]);
        let first = converge(&mut kernel, wish, &mut |_, _| ()).unwrap();
        assert!(!first.done.is_empty());
        let passes = kernel.passes;
        let second = converge(&mut kernel, wish, &mut |_, _| ()).unwrap();
        assert!(second.done.is_empty() && kernel.passes == passes, "{:?}", second.done);
    }
}

#[test]
fn progress_goes_forward_to_its_end() {
    let config = config(EXAMPLES[0]);
    let attachments = attachments(&config);
    let mut kernel = Kernel::new(&[&config]);
    let mut heard = Vec::new();
    converge(&mut kernel, Wish::Be(&config, &attachments), &mut |done, total| heard.push((done, total)))
        .unwrap();
    let total = heard[0].1;
    let first: Vec<_> = (1..=total).map(|done| (done, total)).collect();
    assert_eq!(heard[..total], first);
    assert_eq!(heard.last().map(|(done, total)| done == total), Some(true));
}

#[test]
fn somebody_who_keeps_undoing_it_is_named_as_such() {
    let config = config(EXAMPLES[1]);
    let attachments = attachments(&config);
    let mut kernel = Kernel::new(&[&config]);
    kernel.trouble = Trouble::Meddles(|host| {
        host.state.routes.retain(|route| route.protocol != viaduct_plan::PROTOCOL);
    });
    let error = change(&mut kernel, None, Wish::Be(&config, &attachments), &mut |_, _| ()).unwrap_err();
    let ConvergeError::Unstable { remaining, .. } = &error.cause else { panic!("{error:?}") };
    assert!(remaining.iter().any(|line| line.starts_with("+ route")), "{remaining:?}");
    assert!(matches!(error.aftermath, Aftermath::Partial));
}

#[test]
fn what_gets_in_the_way_half_way_is_undone() {
    let config = config(EXAMPLES[1]);
    let attachments = attachments(&config);
    let wish = Wish::Be(&config, &attachments);
    let mut kernel = Kernel::new(&[&config]);
    let was = kernel.comparable();
    // Somebody reaches one of our subnets otherwise, from then on.
    kernel.trouble = Trouble::Meddles(|host| {
        let eth0 = host.state.routes.iter().find(|route| route.protocol == 3).cloned().unwrap();
        host.state.routes.insert(Route { destination: "192.168.0.0/16".parse().unwrap(), ..eth0 });
    });
    let error = change(&mut kernel, Some(Wish::Nothing), wish, &mut |_, _| ()).unwrap_err();
    let ConvergeError::Interrupted { cause, done } = &error.cause else { panic!("{error:?}") };
    assert!(matches!(**cause, ConvergeError::Unfit(_)) && !done.is_empty(), "{error:?}");
    assert!(matches!(error.aftermath, Aftermath::Undone), "{error:?}");
    let mut now = kernel.comparable();
    now.routes.retain(|route| route.destination.prefix_len() != 16);
    assert_same(&now, &was, "the meddler");
}

#[test]
fn what_cannot_be_seen_is_not_touched() {
    let config = config(EXAMPLES[0]);
    let attachments = attachments(&config);
    let wish = Wish::Be(&config, &attachments);
    let mut kernel = Kernel::new(&[&config]);
    kernel.trouble = Trouble::BlindAfter(0);
    let error = change(&mut kernel, Some(Wish::Nothing), wish, &mut |_, _| ()).unwrap_err();
    assert!(
        matches!(error.cause, ConvergeError::Observe(_)) && matches!(error.aftermath, Aftermath::Untouched)
    );
    assert_eq!(kernel.passes, 0);
    // And when it cannot be seen any more after the first pass, that is said.
    kernel.trouble = Trouble::BlindAfter(1);
    let error = change(&mut kernel, Some(Wish::Nothing), wish, &mut |_, _| ()).unwrap_err();
    assert!(matches!(error.cause, ConvergeError::Interrupted { .. }), "{error:?}");
    assert!(matches!(error.aftermath, Aftermath::Stuck(ConvergeError::Observe(_))), "{error:?}");
}

#[test]
fn a_host_that_does_not_fit_is_left_alone() {
    let wrong = EXAMPLES[0].replace("interface = \"eth0\"", "interface = \"eth9\"");
    let config = config(&wrong);
    let mut kernel = Kernel::new(&[]);
    let nothing = Attachments::new();
    let error =
        change(&mut kernel, Some(Wish::Nothing), Wish::Be(&config, &nothing), &mut |_, _| ()).unwrap_err();
    assert!(matches!(error.cause, ConvergeError::Unfit(_)) && !error.cause.began());
    assert!(matches!(error.aftermath, Aftermath::Untouched));
    assert_eq!(kernel.passes, 0);
}

/// Stops after each step of a change and tries anew.
fn stopped_anywhere(before: &Config, after: &Config) {
    let (at_first, at_last) = (attachments(before), attachments(after));
    let (from, to) = (Wish::Be(before, &at_first), Wish::Be(after, &at_last));
    let mut kernel = Kernel::new(&[before, after]);
    kernel.becomes(from);
    let start = kernel.host.clone();
    let ops = look(&mut kernel, to).unwrap().plan.ops;
    kernel.becomes(to);
    let arrived = kernel.comparable();
    for (number, op) in ops.iter().enumerate() {
        // A route that moves is taken away and made in one message to the kernel.
        if matches!(op, Op::DeleteRoute(route) if route.protocol != viaduct_plan::PROTOCOL) {
            continue;
        }
        let mut kernel = Kernel { host: start.clone(), trouble: Trouble::Nothing, passes: 0 };
        for result in kernel.host.apply(&ops[..=number], &|_, _| true, &mut |_| ()) {
            result.unwrap();
        }
        kernel.becomes(to);
        // What a device listens to is remembered in the filter, which goes first: stopped there, it hears a MAC more
        // than it needs.
        let mut now = kernel.comparable();
        assert!(now.unicast.is_superset(&arrived.unicast), "stopped after {op}");
        now.unicast.clone_from(&arrived.unicast);
        assert_same(&now, &arrived, &format!("stopped after {op}"));
    }
}

#[test]
fn stopped_at_any_step_the_next_apply_arrives() {
    let nothing = config("[host]\nname = \"h\"\n");
    let [openvz, xen, attacker] = EXAMPLES else { panic!() };
    let (openvz, xen, attacker) = (config(openvz), config(xen), config(attacker));
    for (before, after) in
        [(&nothing, &openvz), (&openvz, &nothing), (&openvz, &xen), (&xen, &attacker), (&attacker, &openvz)]
    {
        stopped_anywhere(before, after);
    }
}

/// Whether a host lets nothing pass, whatever else its filter says.
fn is_closed(host: &Host) -> bool {
    let inet = host.state.nft.tables.get(&Family::Inet);
    inet.is_some_and(|table| table.chains.contains_key("until_made"))
}

#[test]
fn a_host_is_closed_before_it_is_made_and_open_when_it_is() {
    for text in EXAMPLES {
        let config = config(text);
        let attachments = Attachments::new();
        let mut kernel = Kernel::new(&[&config]);
        // Without the uplink this configuration fits no host.
        kernel.host = Host::default();
        let closing = close(&mut kernel, Some(&config)).unwrap();
        assert!(closing.trouble.is_none() && !closing.done.is_empty());
        assert!(is_closed(&kernel.host) && kernel.host.state.nft.tables[&Family::Inet].chains.len() > 10);
        assert!(converge(&mut kernel, Wish::Be(&config, &attachments), &mut |_, _| ()).is_err());
        assert!(is_closed(&kernel.host), "opened by what could not be made");
        let again = close(&mut kernel, Some(&config)).unwrap();
        assert!(again.done.is_empty());

        let tables = kernel.host.state.nft.clone();
        kernel.host = Kernel::new(&[&config]).host;
        kernel.host.state.nft = tables;
        kernel.becomes(Wish::Be(&config, &attachments));
        assert!(!is_closed(&kernel.host));
    }
}

#[test]
fn a_filter_that_is_refused_leaves_a_closed_host() {
    let config = config(EXAMPLES[0]);
    let mut kernel = Kernel::new(&[&config]);
    kernel.host.fail_at = Some(0);
    let closing = close(&mut kernel, Some(&config)).unwrap();
    assert!(matches!(closing.trouble, Some(ConvergeError::Failed { .. })) && is_closed(&kernel.host));

    // The kernel tells nothing, and takes what it is told.
    let mut kernel = Kernel::new(&[&config]);
    kernel.trouble = Trouble::BlindAfter(0);
    let closing = close(&mut kernel, Some(&config)).unwrap();
    assert!(matches!(closing.trouble, Some(ConvergeError::Observe(_))) && is_closed(&kernel.host));

    let mut kernel = Kernel::new(&[&config]);
    close(&mut kernel, None).unwrap();
    assert!(is_closed(&kernel.host));
}
