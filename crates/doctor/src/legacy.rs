//! What `iptables-legacy-save` prints, as tables: the older kernel interface has no list that could be read otherwise.

use std::collections::BTreeMap;

use viaduct_types::IpNet;

use crate::filter::{Chain, Condition, Engine, Family, Hook, Rule, Table, Test, Verdict};

/// The tables of a text that have rules for forwarded packets: `filter`, `mangle`, `raw` and `security` may drop.
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
            let priority = if table.name == "mangle" { -150 } else { 0 };
            let hook = (name == "FORWARD").then_some(Hook { priority, drops: policy == "DROP" });
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
    use crate::filter::{Fate, Packet};

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
            input: input.into(),
            output: output.into(),
            source: [10, 0, 0, 2].into(),
            destination: [9, 9, 9, 9].into(),
            established,
            translated: false,
        };
        assert_eq!(table.fate("FORWARD", &packet("docker0", "eth0", false)), Fate::Passes);
        assert_eq!(table.fate("FORWARD", &packet("docker0", "docker0", false)), Fate::Lost);
        assert_eq!(table.fate("FORWARD", &packet("eth0", "docker0", true)), Fate::Passes);
        assert_eq!(table.fate("FORWARD", &packet("eth0", "docker0", false)), Fate::Lost);
        assert_eq!(table.fate("FORWARD", &packet("br-a", "eth0", false)), Fate::Lost);
    }
}
