//! What packets meet while the filter changes: the filter before or the one after, never a mixture that lets through
//! what neither does.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use viaduct_kernel::nft::Nft;
use viaduct_model::Source;
use viaduct_plan::{
    Attachments, Observed, Op,
    nft::{ChainKind, Change, Family, Hook, Key, Ruleset, Selector, Set, SetDef, Statement, Type, Verdict},
    plan,
    sim::Host,
};

use crate::support::{addr, base, chain, in_netns, ip, member, rule, ruleset, set, table};

/// How long each way of changing is looked at.
const WHILE: Duration = Duration::from_secs(1);
/// Ranges that change besides, so that the kernel has something to do.
const OTHERS: u16 = 300;

/// A guest with a list of its own that nothing is in, in a network that lets everybody in; or a guest without a list in
/// a network that lets nobody in. Neither lets anything through.
fn closed(by_list: bool) -> Ruleset {
    let verdict = |verdict| Statement::Verdict(verdict);
    let to = || vec![Selector::IpDaddr];
    let through = chain(
        base(ChainKind::Filter, Hook::Output, 0),
        [
            rule([Statement::In(to(), "listed_in4"), verdict(Verdict::Drop)]),
            rule([
                Statement::In(vec![Selector::IpSaddr, Selector::IpDaddr], "between4"),
                verdict(Verdict::Accept),
            ]),
            rule([verdict(Verdict::Drop)]),
        ],
    );
    let localhost = || Key::new().ip(addr("127.0.0.1"));
    let listed: Vec<_> = by_list.then(|| member(localhost())).into_iter().collect();
    let mut between: Vec<_> = (0..OTHERS)
        .map(|n| member(Key::new().ip(addr(&format!("10.{}.{}.1", n / 200, n % 200))).ip(addr("10.9.9.9"))))
        .collect();
    between.push(member(
        Key::new().prefix("127.0.0.0/8".parse().unwrap()).prefix("127.0.0.0/8".parse().unwrap()),
    ));
    let between = if by_list { between } else { Vec::new() };
    let sets = [
        ("listed_in4", set(SetDef::set(&[Type::Ipv4]), listed)),
        ("between4", set(SetDef::set(&[Type::Ipv4, Type::Ipv4]).ranges(), between)),
        ("flows_to_end", note()),
    ];
    ruleset([(Family::Inet, table(sets, [("through", through)]))])
}

/// The set that flows to end are noted in.
fn note() -> Set {
    let text =
        "[host]\nname = \"h\"\n[networks.n]\nmode = \"isolated\"\nsubnets = [\"10.0.0.0/24\"]\n".to_owned();
    let config = viaduct_model::load(&[Source { name: "viaduct.toml".to_owned(), text }]).unwrap().config;
    let host = Host::default().state;
    let (desired, _) = viaduct_plan::desired(&config, &Attachments::new(), &host);
    desired.nft.tables[&Family::Inet].sets["flows_to_end"].clone()
}

/// The transactions from one filter to another, as they are planned.
fn planned(from: &Ruleset, to: &Ruleset) -> Vec<Vec<Change>> {
    let observed = Observed { nft: from.clone(), ..Host::default().state };
    let desired = viaduct_plan::Desired { nft: to.clone(), ..viaduct_plan::Desired::default() };
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these two change the filter")]
    let transaction = |op| match op {
        Op::Nft(changes) | Op::EndFlows { then: changes } => Some(changes),
        _ => None,
    };
    plan(&observed, &desired).ops.into_iter().filter_map(transaction).collect()
}

/// Goes to and fro under fire, and counts the packets that came through.
fn leaks(transactions: impl Fn(&Ruleset, &Ruleset) -> Vec<Vec<Change>>) -> usize {
    let mut nft = Nft::open().unwrap();
    let (one, other) = (closed(true), closed(false));
    nft.commit(&viaduct_plan::nft::diff(&Ruleset::default(), &one)).unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:4000").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ended = AtomicBool::new(false);
    let (there, back) = (transactions(&one, &other), transactions(&other, &one));
    thread::scope(|scope| {
        let fire = || {
            while !ended.load(Ordering::Relaxed) {
                // What the filter drops is refused.
                let _ = sender.send_to(b"x", "127.0.0.1:4000");
            }
        };
        scope.spawn(fire);
        let begin = Instant::now();
        let mut leaks = 0;
        while begin.elapsed() < WHILE {
            for changes in there.iter().chain(&back) {
                nft.commit(changes).unwrap();
            }
            while receiver.recv(&mut [0; 8]).is_ok() {
                leaks += 1;
            }
        }
        ended.store(true, Ordering::Relaxed);
        nft.commit(&[Change::DeleteTable(Family::Inet)]).unwrap();
        leaks
    })
}

#[test]
fn nothing_comes_through_while_a_closed_filter_becomes_another() {
    in_netns(|| {
        ip("link set lo up");
        let at_once = leaks(|from, to| vec![viaduct_plan::nft::diff(from, to)]);
        // Some kernels let packets through, others have closed that gap.
        println!("in one transaction, {at_once} packets came through");
        assert_eq!(leaks(planned), 0);
    });
}
