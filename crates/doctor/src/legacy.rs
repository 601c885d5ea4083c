//! What `iptables-legacy-save` prints, as tables: the older kernel interface has no list that could be read otherwise.

use std::collections::BTreeMap;

use viaduct_types::IpNet;

use crate::filter::{
    Cast, Chain, Condition, Engine, Family, Field, Hook, Point, Range, Rule, Set, Table, Test, Verdict,
};

/// The tables of a text: `filter`, `mangle`, `raw` and `security` may drop.
pub fn tables(family: Family, text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let (engine, name) = (Engine::Legacy, name.trim().to_owned());
            tables.push(Table { engine, family, name, chains: BTreeMap::new() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(rest) = line.strip_prefix(':') {
            let mut words = rest.split_whitespace();
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            // NF_IP_PRI_*
            let priority = match table.name.as_str() {
                "raw" => -300,
                "mangle" => -150,
                "security" => 50,
                _ => 0,
            };
            let point = match name {
                "INPUT" => Some(Point::Input),
                "FORWARD" => Some(Point::Forward),
                "OUTPUT" => Some(Point::Output),
                _ => None,
            };
            let hook = point.map(|point| Hook { point, priority, drops: policy == "DROP" });
            table.chains.insert(name.to_owned(), Chain { hook, rules: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words = words(rest);
            if let Some((chain, words)) = words.split_first()
                && let Some(chain) = table.chains.get_mut(chain)
            {
                chain.rules.push(rule(words));
            }
        }
    }
    tables
}

/// Words as a shell would see them: comments stand in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

fn rule(words: &[String]) -> Rule {
    let mut rule = Rule { conditions: Vec::new(), verdict: Verdict::Continue };
    let (mut negated, mut words) = (false, words.iter().map(String::as_str));
    while let Some(word) = words.next() {
        let mut test = |test: Option<Test>| {
            let test = test.unwrap_or(Test::Unknown);
            rule.conditions.push(Condition { test, negated: std::mem::take(&mut negated) });
        };
        match word {
            "!" => negated = true,
            "-i" => test(words.next().map(|name| Test::In(name.to_owned()))),
            "-o" => test(words.next().map(|name| Test::Out(name.to_owned()))),
            "-s" => test(words.next().and_then(net).map(Test::Source)),
            "-d" => test(words.next().and_then(net).map(Test::Destination)),
            "-p" => test(words.next().and_then(protocol).map(Test::Protocol)),
            "--ctstate" | "--state" => test(words.next().map(state)),
            "--dport" | "--dports" => test(words.next().and_then(ports)),
            "--icmp-type" | "--icmpv6-type" => test(words.next().and_then(message)),
            "--hl-eq" => test(words.next().and_then(|n| one(Field::HopLimit, n))),
            "--dst-type" => test(words.next().and_then(cast)),
            // The match by itself says nothing; its options follow.
            "-m" | "--comment" => drop(words.next()),
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default().to_owned();
                rule.verdict = if word == "-g" { Verdict::Goto(target) } else { verdict(target) };
                // What follows are the target's options.
                break;
            }
            option if option.starts_with('-') => test(None),
            // A value of an option that is not understood.
            _ => {}
        }
    }
    rule
}

fn protocol(word: &str) -> Option<u8> {
    Some(match word {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        number => number.parse().ok()?,
    })
}

/// Ports and ranges of them, as `--dport` and `--dports` have them.
fn ports(words: &str) -> Option<Test> {
    let range = |word: &str| match word.split_once(':') {
        None => word.parse().ok().map(|port| (port, port)),
        Some((first, last)) => {
            let end = |word: &str, open| if word.is_empty() { Some(open) } else { word.parse().ok() };
            Some((end(first, 0)?, end(last, u16::MAX)?))
        }
    };
    let ranges: Option<Vec<(u16, u16)>> = words.split(',').map(range).collect();
    Some(Test::Among(Set::ports(ranges?)))
}

/// A type of ICMP; with another code than 0 it is none that is asked about.
fn message(word: &str) -> Option<Test> {
    if word == "any" {
        return Some(Test::Among(Set::bytes(Field::Message, [(0, u8::MAX)])));
    }
    match word.split_once('/') {
        None => one(Field::Message, word),
        Some((kind, "0")) => one(Field::Message, kind),
        Some(_) => Some(Test::Among(Set::bytes(Field::Message, []))),
    }
}

fn one(field: Field, word: &str) -> Option<Test> {
    word.parse().ok().map(|number| Test::Among(Set::bytes(field, [(number, number)])))
}

/// Of the kinds of destinations, those that can be told from each other.
fn cast(words: &str) -> Option<Test> {
    let kind = |word| {
        let number = match word {
            "UNICAST" => Cast::Unicast.number(),
            "LOCAL" => Cast::Local.number(),
            "MULTICAST" => Cast::Multicast.number(),
            "BROADCAST" => 3,
            "ANYCAST" => 4,
            _ => return None,
        };
        Some(Range::new(&number.to_ne_bytes(), &number.to_ne_bytes()))
    };
    let kinds: Option<Vec<Range>> = words.split(',').map(kind).collect();
    Some(Test::Among(Set::one(Field::Cast, kinds?)))
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

/// The bits of [`Test::State`].
fn state(words: &str) -> Test {
    let bit = |word| match word {
        "INVALID" => 1,
        "ESTABLISHED" => 2,
        "RELATED" => 4,
        "NEW" => 8,
        "UNTRACKED" => 64,
        _ => 0,
    };
    if words == "DNAT" {
        return Test::Translated;
    }
    Test::State(words.split(',').map(bit).sum())
}

fn verdict(target: String) -> Verdict {
    match target.as_str() {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "QUEUE" | "NFQUEUE" => Verdict::Unknown,
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "TCPMSS" | "DSCP" | "TOS" | "TTL" | "HL"
        | "CLASSIFY" | "CT" | "NOTRACK" | "SET" | "TRACE" | "TEE" | "AUDIT" | "SECMARK" | "CONNSECMARK"
        | "CHECKSUM" => Verdict::Continue,
        _ => Verdict::Jump(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Fate, Load, Packet, State, TCP, UDP};

    #[test]
    fn docker_s_rules_are_understood() {
        let text = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -m comment --comment \"to the \\\"world\\\" -j DROP\" -j ACCEPT
COMMIT
";
        let tables = tables(Family::Ip, text);
        let [table] = &tables[..] else { panic!("{tables:?}") };
        let packet = |input: &str, output: &str, established| Packet {
            input: Some(input.into()),
            output: Some(output.into()),
            ipv4: true,
            source: Some([10, 0, 0, 2].into()),
            destination: Some([9, 9, 9, 9].into()),
            cast: Cast::Unicast,
            load: Load::To { protocol: TCP, port: None },
            state: if established { State::Established } else { State::New },
            translated: false,
        };
        assert_eq!(table.fate("FORWARD", &packet("docker0", "eth0", false)), Fate::Passes);
        assert_eq!(table.fate("FORWARD", &packet("docker0", "docker0", false)), Fate::Lost);
        assert_eq!(table.fate("FORWARD", &packet("eth0", "docker0", true)), Fate::Passes);
        assert_eq!(table.fate("FORWARD", &packet("eth0", "docker0", false)), Fate::Lost);
        assert_eq!(table.fate("FORWARD", &packet("br-a", "eth0", false)), Fate::Lost);
    }

    /// What ufw makes of both, with the words that it has for them.
    #[test]
    fn rules_for_the_host_itself_are_understood() {
        let text = "\
*filter
:INPUT DROP [0:0]
:OUTPUT ACCEPT [0:0]
:before - [0:0]
:not-local - [0:0]
-A INPUT -j before
-A INPUT -p udp -m multiport --dports 1798,1800:1807 -m comment --comment \"'vnets'\" -j ACCEPT
-A INPUT -p tcp -m tcp ! --dport 22:65535 -j ACCEPT
-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A before -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -j ACCEPT
-A before -p ipv6-icmp -m icmp6 --icmpv6-type 136/1 -j ACCEPT
-A before -j not-local
-A not-local -m addrtype --dst-type LOCAL -j RETURN
-A not-local -m limit --limit 3/min -j LOG
-A not-local -j DROP
COMMIT
";
        let tables = tables(Family::Ip6, text);
        let fate = |load, cast| {
            let packet = Packet {
                input: Some("eth0".into()),
                output: Some(String::new()),
                ipv4: false,
                source: None,
                destination: None,
                cast,
                load,
                state: State::New,
                translated: false,
            };
            tables[0].fate("INPUT", &packet)
        };
        let to = |protocol, port| fate(Load::To { protocol, port: Some(port) }, Cast::Local);
        assert_eq!(to(UDP, 1798), Fate::Passes);
        assert_eq!(to(UDP, 1799), Fate::Lost);
        assert_eq!(to(UDP, 1807), Fate::Passes);
        assert_eq!(to(TCP, 1800), Fate::Lost);
        assert_eq!(to(TCP, 21), Fate::Passes);
        assert_eq!(fate(Load::To { protocol: UDP, port: Some(1798) }, Cast::Multicast), Fate::Lost);
        assert_eq!(fate(Load::Message(135), Cast::Multicast), Fate::Passes);
        assert_eq!(fate(Load::Message(136), Cast::Local), Fate::Lost);
        assert_eq!(fate(Load::Message(128), Cast::Local), Fate::Lost);
    }
}
