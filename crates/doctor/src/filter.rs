//! Other programs' filters as far as forwarded packets meet them, and what becomes of a packet there. Whatever is not
//! understood of a rule may or may not match.

use std::{collections::BTreeMap, net::IpAddr};

use viaduct_types::IpNet;

/// Chains that call each other deeper than this are not followed; the kernel's own limit is 16
/// (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 32;
const TCP: u8 = 6;

/// A table with a base chain that sees forwarded packets.
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

    fn sees(self, address: IpAddr) -> bool {
        match self {
            Self::Ip => address.is_ipv4(),
            Self::Ip6 => address.is_ipv6(),
            Self::Inet => true,
        }
    }
}

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// For a filter that forwarded packets begin with.
    pub hook: Option<Hook>,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// A chain's place at the forward hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
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
    /// The connection's state, one of these bits: 1 invalid, 2 established, 4 related, 8 new.
    State(u32),
    /// The connection's destination was translated.
    Translated,
    /// The protocol's number; the packets that are asked about are of TCP.
    Protocol(u8),
    /// IPv4 packets; the opposite: IPv6.
    Ipv4,
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

/// A packet of TCP that is to be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The device it came in by.
    pub input: String,
    /// The device it leaves by.
    pub output: String,
    /// Where from.
    pub source: IpAddr,
    /// Where to, after translation.
    pub destination: IpAddr,
    /// Whether it belongs to a connection that is known.
    pub established: bool,
    /// Whether the connection's destination was translated.
    pub translated: bool,
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
    /// The chains that forwarded packets begin with, by name.
    pub fn bases(&self) -> impl Iterator<Item = (&str, Hook)> {
        self.chains.iter().filter_map(|(name, chain)| Some((name.as_str(), chain.hook?)))
    }

    /// What becomes of a packet that begins with a chain.
    pub fn fate(&self, base: &str, packet: &Packet) -> Fate {
        if !self.family.sees(packet.source) {
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
        let within = |net: &IpNet, address: IpAddr| Some(net.contains(&address));
        match self {
            Self::In(pattern) => Some(is_named(pattern, &packet.input)),
            Self::Out(pattern) => Some(is_named(pattern, &packet.output)),
            Self::Source(net) => within(net, packet.source),
            Self::Destination(net) => within(net, packet.destination),
            Self::State(bits) => Some(bits & if packet.established { 2 } else { 8 } != 0),
            Self::Translated => Some(packet.translated),
            Self::Protocol(number) => Some(*number == TCP),
            Self::Ipv4 => Some(packet.source.is_ipv4()),
            Self::Unknown => None,
        }
    }
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['*', '+']) {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(tests: &[Test], verdict: Verdict) -> Rule {
        let conditions = tests.iter().map(|test| Condition { test: test.clone(), negated: false }).collect();
        Rule { conditions, verdict }
    }

    fn table(drops: bool, rules: Vec<Rule>) -> Table {
        let hook = Some(Hook { priority: 0, drops });
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
            input: "br-a".into(),
            output: "eth0".into(),
            source: [10, 0, 0, 2].into(),
            destination: [9, 9, 9, 9].into(),
            established: false,
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
        packet.source = "fd00::2".parse().unwrap();
        assert_eq!(table(true, vec![]).fate("FORWARD", &packet), Fate::Passes);
        let looped = table(false, vec![rule(&[], Verdict::Jump("FORWARD".into()))]);
        assert_eq!(looped.fate("FORWARD", &self::packet()), Fate::Passes);
    }
}
