//! Other programs' filters as far as forwarded packets, and those to and from this host itself, meet them, and what becomes
//! of a packet there. Whatever is not understood of a rule may or may not match.

mod packet;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use viaduct_types::IpNet;

pub use packet::{Cast, Field, ICMP, ICMPV6, Load, Packet, Range, Set, State, TCP, UDP};

/// Chains that call each other deeper than this are not followed; the kernel's own limit is 16
/// (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 32;
/// A table with a base chain at one of the hooks of [`Point`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which part of the kernel has it.
    pub engine: Engine,
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
}

/// Which part of the kernel has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// nf_tables, also by way of iptables-nft.
    Nft,
    /// x_tables (iptables-legacy).
    Legacy,
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// nft's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    fn sees(self, packet: &Packet) -> bool {
        match self {
            Self::Ip => packet.ipv4,
            Self::Ip6 => !packet.ipv4,
            Self::Inet => true,
        }
    }
}

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// For a filter that packets begin with.
    pub hook: Option<Hook>,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// A hook of netfilter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// For this host itself.
    Input,
    /// Through this host.
    Forward,
    /// From this host itself.
    Output,
}

/// A chain's place at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Which hook.
    pub point: Point,
    /// Chains with lower numbers come first.
    pub priority: i32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// A rule: when all conditions hold, the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of them.
    pub conditions: Vec<Condition>,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is asked.
    pub test: Test,
    /// Whether the opposite has to be true.
    pub negated: bool,
}

/// What a condition asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The device it came in by; with a `*` or `+` at the end, a beginning of its name.
    In(String),
    /// The device it leaves by.
    Out(String),
    /// Where from.
    Source(IpNet),
    /// Where to.
    Destination(IpNet),
    /// The connection's state, one of these bits: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    State(u32),
    /// The connection's destination was translated.
    Translated,
    /// The protocol's number.
    Protocol(u8),
    /// IPv4 packets; the opposite: IPv6.
    Ipv4,
    /// Whether its fields together are one of these.
    Among(Set),
    /// Something else.
    Unknown,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on with the next rule.
    Continue,
    /// Through with this base chain.
    Accept,
    /// Lost, silently or with an answer.
    Drop,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes on in another chain.
    Goto(String),
    /// Back to where the chain was called.
    Return,
    /// Something else.
    Unknown,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is let through for certain, or the table does not see it.
    Passes,
    /// It is lost for certain.
    Lost,
    /// It is lost unless rules let it through that are not understood.
    LostMostly,
}

impl Table {
    /// The chains that packets begin with, by name.
    pub fn bases(&self) -> impl Iterator<Item = (&str, Hook)> {
        self.chains.iter().filter_map(|(name, chain)| Some((name.as_str(), chain.hook?)))
    }

    /// The chains that a packet may come to that begins with one.
    pub(crate) fn reached<'a>(&'a self, base: &'a str) -> BTreeSet<&'a str> {
        let (mut reached, mut next) = (BTreeSet::new(), vec![base]);
        while let Some(chain) = next.pop() {
            if reached.insert(chain) {
                let rules = self.chains.get(chain).into_iter().flat_map(|chain| &chain.rules);
                next.extend(rules.filter_map(|rule| match &rule.verdict {
                    Verdict::Jump(to) | Verdict::Goto(to) => Some(to.as_str()),
                    Verdict::Continue
                    | Verdict::Accept
                    | Verdict::Drop
                    | Verdict::Return
                    | Verdict::Unknown => None,
                }));
            }
        }
        reached
    }

    /// What becomes of a packet that begins with a chain.
    pub fn fate(&self, base: &str, packet: &Packet) -> Fate {
        if !self.family.sees(packet) {
            return Fate::Passes;
        }
        let drops = self.chains.get(base).and_then(|chain| chain.hook).is_some_and(|hook| hook.drops);
        let lost = |unknown| match self.walk(base, packet, unknown, 0) {
            Some(End::Accept) => false,
            Some(End::Drop) => true,
            None => drops,
        };
        // Unknown conditions of rules that let through are taken for false first, then for true.
        match (lost(Unknown::Loses), lost(Unknown::Passes)) {
            (true, true) => Fate::Lost,
            // A special rule that drops, such as one against floods, is no hindrance.
            (_, false) if !lost(Unknown::Never) => Fate::Passes,
            (false, _) => Fate::Passes,
            (true, false) => Fate::LostMostly,
        }
    }

    fn walk(&self, chain: &str, packet: &Packet, unknown: Unknown, depth: usize) -> Option<End> {
        if depth > DEEPEST {
            return None;
        }
        for rule in &self.chains.get(chain)?.rules {
            if !unknown.holds(rule, packet) {
                continue;
            }
            match &rule.verdict {
                Verdict::Continue => {}
                Verdict::Accept => return Some(End::Accept),
                Verdict::Drop => return Some(End::Drop),
                Verdict::Return => return None,
                Verdict::Jump(to) => {
                    if let Some(end) = self.walk(to, packet, unknown, depth + 1) {
                        return Some(end);
                    }
                }
                Verdict::Goto(to) => return self.walk(to, packet, unknown, depth + 1),
                Verdict::Unknown => match unknown {
                    Unknown::Passes => return Some(End::Accept),
                    Unknown::Loses | Unknown::Never => {}
                },
            }
        }
        None
    }
}

enum End {
    Accept,
    Drop,
}

/// What is taken for true of conditions that are not understood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// Those of rules that let through hold, others do not.
    Passes,
    /// Those of rules that drop hold, others do not.
    Loses,
    /// None holds.
    Never,
}

impl Unknown {
    fn holds(self, rule: &Rule, packet: &Packet) -> bool {
        let mut understood = true;
        for condition in &rule.conditions {
            match condition.test.holds(packet) {
                Some(holds) if holds == condition.negated => return false,
                Some(_) => {}
                None => understood = false,
            }
        }
        understood
            || match (self, &rule.verdict) {
                (Self::Passes, verdict) => !matches!(verdict, Verdict::Drop | Verdict::Return),
                (Self::Loses, verdict) => matches!(verdict, Verdict::Drop | Verdict::Return),
                (Self::Never, _) => false,
            }
    }
}

impl Test {
    /// None when it cannot be known.
    fn holds(&self, packet: &Packet) -> Option<bool> {
        let within = |net: &IpNet, address: Option<IpAddr>| match address {
            Some(address) => Some(net.contains(&address)),
            None if net.addr().is_ipv4() != packet.ipv4 => Some(false),
            None => (net.prefix_len() == 0).then_some(true),
        };
        match self {
            Self::In(pattern) => is_named(pattern, packet.input.as_deref()),
            Self::Out(pattern) => is_named(pattern, packet.output.as_deref()),
            Self::Source(net) => within(net, packet.source),
            Self::Destination(net) => within(net, packet.destination),
            Self::State(bits) => Some(bits & packet.state.bit() != 0),
            Self::Translated => Some(packet.translated),
            Self::Protocol(number) => Some(*number == packet.protocol()),
            Self::Ipv4 => Some(packet.ipv4),
            Self::Among(set) => set.has(packet),
            Self::Unknown => None,
        }
    }
}

/// The loopback device is never the one that is not known.
fn is_named(pattern: &str, name: Option<&str>) -> Option<bool> {
    let Some(name) = name else { return (pattern == "lo").then_some(false) };
    Some(match pattern.strip_suffix(['*', '+']) {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(tests: &[Test], verdict: Verdict) -> Rule {
        let conditions = tests.iter().map(|test| Condition { test: test.clone(), negated: false }).collect();
        Rule { conditions, verdict }
    }

    fn table(drops: bool, rules: Vec<Rule>) -> Table {
        let hook = Some(Hook { point: Point::Forward, priority: 0, drops });
        let sub = Chain { hook: None, rules: vec![rule(&[Test::Out("eth0".into())], Verdict::Accept)] };
        Table {
            engine: Engine::Nft,
            family: Family::Ip,
            name: "filter".into(),
            chains: [("FORWARD".to_owned(), Chain { hook, rules }), ("SUB".to_owned(), sub)].into(),
        }
    }

    fn packet() -> Packet {
        Packet {
            input: Some("br-a".into()),
            output: Some("eth0".into()),
            ipv4: true,
            source: Some([10, 0, 0, 2].into()),
            destination: Some([9, 9, 9, 9].into()),
            cast: Cast::Unicast,
            load: Load::To { protocol: TCP, port: None },
            state: State::New,
            translated: false,
        }
    }

    #[test]
    fn rules_decide_in_their_order() {
        let fate = |drops, rules: &[(&[Test], Verdict)]| {
            let rules = rules.iter().map(|(tests, verdict)| rule(tests, verdict.clone())).collect();
            table(drops, rules).fate("FORWARD", &packet())
        };
        let other = || Test::In("docker0".into());
        let ours = || Test::In("br-*".into());
        let jump = || Verdict::Jump("SUB".into());
        assert_eq!(fate(true, &[]), Fate::Lost);
        assert_eq!(fate(false, &[]), Fate::Passes);
        assert_eq!(fate(true, &[(&[other()], Verdict::Accept)]), Fate::Lost);
        assert_eq!(fate(true, &[(&[ours()], Verdict::Accept)]), Fate::Passes);
        assert_eq!(fate(true, &[(&[], jump())]), Fate::Passes);
        assert_eq!(fate(true, &[(&[other()], jump())]), Fate::Lost);
        assert_eq!(fate(true, &[(&[], Verdict::Return), (&[], Verdict::Accept)]), Fate::Lost);
        assert_eq!(fate(false, &[(&[], Verdict::Drop), (&[], Verdict::Accept)]), Fate::Lost);
        assert_eq!(fate(true, &[(&[Test::State(2)], Verdict::Accept)]), Fate::Lost);
        assert_eq!(fate(true, &[(&[Test::Unknown], Verdict::Accept)]), Fate::LostMostly);
        assert_eq!(fate(false, &[(&[Test::Unknown], Verdict::Drop)]), Fate::Passes);
        assert_eq!(fate(true, &[(&[], Verdict::Goto("SUB".into())), (&[], Verdict::Drop)]), Fate::Passes);
    }

    #[test]
    fn other_families_and_loops_do_no_harm() {
        let mut packet = packet();
        packet.ipv4 = false;
        assert_eq!(table(true, vec![]).fate("FORWARD", &packet), Fate::Passes);
        let looped = table(false, vec![rule(&[], Verdict::Jump("FORWARD".into()))]);
        assert_eq!(looped.fate("FORWARD", &self::packet()), Fate::Passes);
    }

    #[test]
    fn ports_and_messages_are_told_apart() {
        let ports = |ranges: &[(u16, u16)]| Test::Among(Set::ports(ranges.iter().copied()));
        let message = |kind| Test::Among(Set::bytes(Field::Message, [(kind, kind)]));
        let fate = |load, drops, tests: &[Test], verdict| {
            table(drops, vec![rule(tests, verdict)]).fate("FORWARD", &Packet { load, ..packet() })
        };
        let udp = |port| Load::To { protocol: UDP, port };
        let accepted = |load, tests: &[Test]| fate(load, true, tests, Verdict::Accept);
        let dns = [Test::Protocol(UDP), ports(&[(22, 22), (50, 60)])];
        assert_eq!(accepted(udp(Some(53)), &dns), Fate::Passes);
        assert_eq!(accepted(udp(Some(61)), &dns), Fate::Lost);
        assert_eq!(accepted(Load::To { protocol: TCP, port: Some(53) }, &dns), Fate::Lost);
        // Some of whatever may be meant pass.
        assert_eq!(accepted(udp(None), &dns), Fate::LostMostly);
        assert_eq!(accepted(udp(None), &[ports(&[(0, u16::MAX)])]), Fate::Passes);
        assert_eq!(accepted(Load::Message(8), &[Test::Protocol(ICMP), message(8)]), Fate::Passes);
        assert_eq!(accepted(Load::Message(8), &[Test::Protocol(ICMP), message(0)]), Fate::Lost);
        assert_eq!(accepted(Load::Message(8), &dns), Fate::Lost);
        assert_eq!(fate(udp(Some(53)), false, &dns, Verdict::Drop), Fate::Lost);
        assert_eq!(fate(udp(None), false, &dns, Verdict::Drop), Fate::Passes);
    }

    #[test]
    fn several_fields_are_one_of_a_set_together() {
        let element = |protocol: u8, port: u16| {
            vec![Range::new(&[protocol], &[protocol]), Range::new(&port.to_be_bytes(), &port.to_be_bytes())]
        };
        let elements = vec![element(TCP, 80), element(UDP, 53)];
        let set = Set { fields: vec![Field::Protocol, Field::Port], elements };
        let has = |protocol, port| set.has(&Packet { load: Load::To { protocol, port }, ..packet() });
        assert_eq!(has(UDP, Some(53)), Some(true));
        assert_eq!(has(TCP, Some(53)), Some(false));
        assert_eq!(has(TCP, None), None);
        assert_eq!(has(132, None), Some(false));
    }

    #[test]
    fn what_is_not_known_of_a_packet_may_be_anything() {
        let nobody = Packet { input: None, source: None, ..packet() };
        let fate = |test| table(true, vec![rule(&[test], Verdict::Accept)]).fate("FORWARD", &nobody);
        assert_eq!(fate(Test::In("eth0".into())), Fate::LostMostly);
        assert_eq!(fate(Test::In("lo".into())), Fate::Lost);
        assert_eq!(fate(Test::Source("192.0.2.0/24".parse().unwrap())), Fate::LostMostly);
        assert_eq!(fate(Test::Source("0.0.0.0/0".parse().unwrap())), Fate::Passes);
        assert_eq!(fate(Test::Source("::/0".parse().unwrap())), Fate::Lost);
    }
}
