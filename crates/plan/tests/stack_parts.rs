//! A change of a few guests of one stack is planned without a look at the others, or at the rest of its own, and leads
//! where the whole plan leads.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, fmt::Write as _};

use common::{
    attach_all, config, converge, host, look,
    shape::{check_safe, comparable},
};
use proptest::{prelude::*, sample::Index};
use viaduct_model::Config;
use viaduct_plan::{
    Apply, Attachments, Flow, ObservePart, Observed, Op, Plan, ServedChange, Tuple,
    part::{AskPart, Judge, Reduced, Side},
    sim::Host,
};
use viaduct_types::{NamespaceName, NicId};

/// Two stacks and the host's own, with the same prefixes; one stack has a second network.
const NETWORKS: [(&str, &str); 4] = [
    (
        "red",
        "mode = \"nat\"\nuplink = \"red\"\nnamespace = \"red\"\nsubnets = [\"10.0.0.0/16\", \"fd00::/64\"]\ndhcp = true\ndns = true\n",
    ),
    (
        "ways",
        "mode = \"routed\"\nuplink = \"red\"\nnamespace = \"red\"\npool = [\"10.0.0.0/16\"]\nproxy = true\n",
    ),
    (
        "blue",
        "mode = \"nat\"\nuplink = \"blue\"\nnamespace = \"blue\"\nsubnets = [\"10.0.0.0/16\"]\ndns = true\n",
    ),
    ("lan", "mode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/16\"]\ndhcp = true\n"),
];
const PREFIXES: [u8; 4] = [0, 77, 0, 0];

#[derive(Clone, Debug)]
struct Guest {
    network: usize,
    publish: Option<(u16, bool)>,
    allowed: Option<Option<Index>>,
}

fn guest() -> impl Strategy<Value = Guest> {
    (
        0..NETWORKS.len(),
        prop::option::of((0..3_u16, any::<bool>())),
        prop::option::of(prop::option::of(any::<Index>())),
    )
        .prop_map(|(network, publish, allowed)| Guest { network, publish, allowed })
}

fn stack_of(network: usize) -> &'static str {
    ["red", "red", "blue", ""][network]
}

fn toml(guests: &[Guest]) -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
    for (number, zone) in [(10, "red"), (11, "blue")] {
        let _ = write!(
            text,
            "[uplinks.{zone}]\ninterface = \"out\"\nnamespace = \"{zone}\"\n\
             [[namespaces.{zone}.interfaces]]\nname = \"out\"\ntype = \"macvlan\"\nparent = \"wan\"\n\
             addresses = [\"203.0.113.{number}/24\", \"203.0.113.{}/24\"]\ngateways = [\"203.0.113.1\"]\n",
            number + 10
        );
    }
    for (name, body) in NETWORKS {
        let body = body.replace("pool = [\"10.0.0.0/16\"]", "pool = [\"10.77.0.0/16\"]");
        let _ = write!(text, "[networks.{name}]\n{body}");
    }
    for (number, guest) in guests.iter().enumerate() {
        let (name, _) = NETWORKS[guest.network];
        let _ = writeln!(text, "[guests.g{number}]");
        if let Some((port, at)) = guest.publish {
            // Each port once in each stack.
            let port = 1000 + 10 * u16::try_from(number).unwrap() + port;
            let address = match stack_of(guest.network) {
                "red" => "203.0.113.20",
                "blue" => "203.0.113.21",
                _ => "203.0.113.2",
            };
            let at = if at { format!("{address}:") } else { String::new() };
            let _ = writeln!(text, "publish = [\"{at}{port}:80\"]");
        }
        let others: Vec<usize> = (0..guests.len())
            .filter(|o| *o != number && stack_of(guests[*o].network) == stack_of(guest.network))
            .collect();
        match &guest.allowed {
            None => {}
            Some(Some(index)) if !others.is_empty() => {
                let _ = writeln!(
                    text,
                    "allow-in = [{{ from = \"guest:g{}\", ports = [\"22/tcp\"] }}]",
                    others[index.index(others.len())]
                );
            }
            Some(_) => {
                let _ = writeln!(text, "allow-in = [{{ from = \"network:{name}\" }}]");
            }
        }
        let _ = write!(
            text,
            "[[guests.g{number}.nics]]\nnetwork = \"{name}\"\naddresses = [\"10.{}.1.{}\"]\n",
            PREFIXES[guest.network],
            number + 2
        );
    }
    text
}

/// The part: where it is, what is to do, and what guests are told otherwise.
struct Part {
    stack: Option<NamespaceName>,
    plan: Plan,
    told: ServedChange,
    asked: [AskPart; 2],
}

fn part(host: &mut Host, before: Side<'_>, after: Side<'_>) -> Option<Part> {
    let stale = BTreeSet::new();
    let reduced = Reduced::new(before, after, &stale)?;
    let stack = reduced.stack().cloned();
    let ground = host.observe_part(reduced.stack(), &reduced.ground()).unwrap();
    let section = reduced.section(&ground)?;
    let observed = host.observe_part(reduced.stack(), section.ask()).unwrap();
    let asked = [reduced.ground(), section.ask().clone()];
    Some(Part { stack, plan: section.plan(observed)?, told: section.served().clone(), asked })
}

#[derive(Clone, Debug)]
enum Change {
    Attach(Index),
    Detach(Index),
    Configure(Index, Guest),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<Index>().prop_map(Change::Attach),
        any::<Index>().prop_map(Change::Detach),
        (any::<Index>(), guest()).prop_map(|(index, guest)| Change::Configure(index, guest)),
    ]
}

/// All stacks, without the kernel's numbers.
fn all(host: &Host) -> Vec<Observed> {
    let within = host.stacks.values().map(|stack| {
        // The interfaces have their namespace's settings.
        let mut state = comparable(stack);
        state.journal.clear();
        state
    });
    std::iter::once(comparable(host)).chain(within).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_of_a_stack_leads_where_the_whole_leads(
        guests in prop::collection::vec(guest(), 2..7),
        attached in prop::collection::vec(any::<bool>(), 1..7),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let mut guests = guests;
        let mut now = config(&toml(&guests));
        let mut host = host();
        let everybody = attach_all(&mut host, &now);
        let mut attachments: Attachments = everybody
            .iter()
            .zip(attached.iter().cycle())
            .filter(|(_, attached)| **attached)
            .map(|((nic, target), _)| (nic.clone(), target.clone()))
            .collect();
        converge(&mut host, &now, &attachments);
        let mut served = look(&mut host, &now, &attachments).1.served;
        for change in changes {
            let mut wanted = attachments.clone();
            match &change {
                Change::Attach(index) => {
                    let (nic, target) = everybody.iter().nth(index.index(everybody.len())).unwrap();
                    wanted.insert(nic.clone(), target.clone());
                }
                Change::Detach(index) => {
                    let Some(nic) = wanted.keys().nth(index.index(wanted.len().max(1))).cloned() else { continue };
                    wanted.remove(&nic);
                }
                Change::Configure(index, other) => {
                    let place = index.index(guests.len());
                    guests[place] = Guest { network: guests[place].network, ..other.clone() };
                }
            }
            let then = config(&toml(&guests));
            let before = Side { config: &now, attachments: &attachments };
            let after = Side { config: &then, attachments: &wanted };
            let mut by_whole = host.clone();
            converge(&mut by_whole, &then, &wanted);
            match part(&mut host, before, after) {
                Some(Part { stack, plan, told, .. }) => {
                    for op in &plan.ops {
                        prop_assert_eq!(op.place().0, stack.as_ref());
                        for result in host.apply(std::slice::from_ref(op), &|_, _| true, &mut |_| ()) {
                            prop_assert!(result.is_ok(), "{:?}\n{plan}", result);
                        }
                        check_safe(&host);
                    }
                    let (_, desired, _, rest) = look(&mut host, &then, &wanted);
                    prop_assert!(rest.is_empty(), "{change:?}:\n{plan}left undone:\n{rest}");
                    prop_assert_eq!(all(&host), all(&by_whole));
                    match stack {
                        Some(stack) => served.stacks.entry(stack).or_default().change(&told),
                        None => served.change(&told),
                    }
                    served.stacks.retain(|_, served| *served != Default::default());
                    prop_assert_eq!(&served, &desired.served);
                }
                None => {
                    converge(&mut host, &then, &wanted);
                    served = look(&mut host, &then, &wanted).1.served;
                }
            }
            (now, attachments) = (then, wanted);
        }
    }
}

/// Zones with so many guests each, all attached but the first of each.
fn zones(each: usize) -> (Host, Config, Attachments, Attachments) {
    let guests: Vec<Guest> = (0..4 * each)
        .map(|number| Guest { network: number % 4, publish: Some((0, false)), allowed: None })
        .collect();
    let config = config(&toml(&guests));
    let mut host = host();
    let all = attach_all(&mut host, &config);
    let first = |nic: &NicId| ["g0", "g1", "g2", "g3"].contains(&nic.guest.as_str());
    let some: Attachments = all
        .iter()
        .filter(|(nic, _)| !first(nic))
        .map(|(nic, target)| (nic.clone(), target.clone()))
        .collect();
    converge(&mut host, &config, &some);
    (host, config, some, all)
}

/// What an attach looks at, and what it does, for a guest of each network.
fn costs(each: usize) -> Vec<(usize, usize, usize)> {
    let (mut host, config, attachments, all) = zones(each);
    let mut costs = Vec::new();
    for guest in ["g0", "g1", "g2", "g3"] {
        let nic = NicId { guest: guest.parse().unwrap(), index: 0 };
        let mut wanted = attachments.clone();
        wanted.insert(nic.clone(), all[&nic].clone());
        let sides = [&attachments, &wanted].map(|attachments| Side { config: &config, attachments });
        let Part { stack, plan, asked, .. } = part(&mut host, sides[0], sides[1]).unwrap();
        assert_eq!(stack, config.stack_of_id(&nic).cloned());
        let looked = asked.iter().map(|ask| {
            ask.links.len()
                + ask.addresses.len()
                + ask.routes.len()
                + ask.proxies.len()
                + ask.sysctls.len()
                + ask.guests.len()
        });
        let elements =
            plan.ops.iter().map(|op| if let Op::Nft(changes) = op.place().1 { changes.len() } else { 0 });
        costs.push((plan.ops.len(), looked.sum(), elements.sum()));
    }
    costs
}

/// However many guests a stack and the others have, an attach looks at as much and does as much.
#[test]
fn an_attach_costs_the_same_beside_many() {
    let (few, many) = (costs(2), costs(12));
    assert_eq!(few, many);
    // As on the host itself, which has no filter of its own for that.
    assert_eq!(few[2], few[3], "in a namespace and on the host");
}

/// Flows of other stacks, whose guests have the same addresses, are nobody's business.
#[test]
fn flows_are_judged_by_their_own_stack() {
    let guests = [0, 2].map(|network| Guest { network, publish: Some((0, false)), allowed: None });
    let now = config(&toml(&guests));
    let mut host = host();
    let attachments = attach_all(&mut host, &now);
    converge(&mut host, &now, &attachments);
    let then = config(&toml(&[Guest { publish: None, ..guests[0].clone() }, guests[1].clone()]));
    let stale = BTreeSet::new();
    let [before, after] = [&now, &then].map(|config| Side { config, attachments: &attachments });
    let reduced = Reduced::new(before, after, &stale).unwrap();
    assert_eq!(reduced.stack().map(NamespaceName::as_str), Some("red"));
    let ground = host.observe_part(reduced.stack(), &reduced.ground()).unwrap();
    let judge = Judge::new(&reduced, &ground);
    let flow = |at: &str, port: u16, to: &str| {
        let tuple = |source: &str, source_port, destination: &str, destination_port| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port,
            destination_port,
        };
        Flow {
            protocol: 6,
            original: tuple("198.51.100.7", 4000, at, port),
            reply: tuple(to, 80, "198.51.100.7", 4000),
        }
    };
    assert!(!judge.keeps(&flow("203.0.113.10", 1000, "10.0.1.2")), "of the port that is published no more");
    assert!(judge.keeps(&flow("203.0.113.11", 1010, "10.0.1.3")), "of another guest");
}
