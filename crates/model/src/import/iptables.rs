//! Rules of iptables, from scripts and from `iptables-save`.

use std::net::IpAddr;

use viaduct_types::IpNet;

use super::found::{Found, Published, lines, net};
use crate::Source;

/// What `iptables-save` has written.
pub(super) fn read_saved(source: &Source, found: &mut Found) {
    let mut table = String::new();
    for (number, line) in lines(&source.text) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(policy) = line.strip_prefix(':') {
            let mut words = policy.split_whitespace();
            let (chain, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if let Err(why) = rule(&["-t", &table, "-P", chain, policy], found) {
                found.leave(source, number, line, why);
            }
        } else if line != "COMMIT" {
            let words = ["-t", &table].into_iter().chain(line.split_whitespace()).collect::<Vec<_>>();
            if let Err(why) = rule(&words, found) {
                found.leave(source, number, line, why);
            }
        }
    }
}

#[derive(Default)]
struct Rule<'w> {
    table: &'w str,
    command: &'w str,
    chain: &'w str,
    target: &'w str,
    protocol: &'w str,
    from: Option<&'w str>,
    to: Option<&'w str>,
    inside: Option<&'w str>,
    outside: Option<&'w str>,
    port: Option<&'w str>,
    sources: Option<&'w str>,
    state: Option<&'w str>,
    other: Option<&'w str>,
}

fn parse<'w>(words: &[&'w str]) -> Result<Rule<'w>, String> {
    let mut rule = Rule { table: "filter", ..Rule::default() };
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("a word is missing after `{word}`"));
        match word {
            "-t" | "--table" => rule.table = value()?,
            "-A" | "-I" | "--append" | "--insert" => (rule.command, rule.chain) = ("-A", value()?),
            "-F" | "-X" | "-Z" | "--flush" => {
                rule.command = "-F";
                rule.chain = words.next().unwrap_or_default();
            }
            "-P" | "--policy" => (rule.command, rule.chain, rule.target) = ("-P", value()?, value()?),
            "-j" | "--jump" => rule.target = value()?,
            "-p" | "--protocol" => rule.protocol = value()?,
            "-s" | "--source" | "--src" => rule.from = Some(value()?),
            "-d" | "--destination" | "--dst" => rule.to = Some(value()?),
            "-i" | "--in-interface" => rule.inside = Some(value()?),
            "-o" | "--out-interface" => rule.outside = Some(value()?),
            "--dport" | "--destination-port" => rule.port = Some(value()?),
            "--to" | "--to-destination" | "--to-source" => rule.sources = Some(value()?),
            "--state" | "--ctstate" => rule.state = Some(value()?),
            "-m" | "--match" => {
                let name = value()?;
                if !matches!(name, "state" | "conntrack" | "tcp" | "udp") {
                    rule.other = Some(name);
                }
            }
            other => rule.other = Some(other),
        }
    }
    Ok(rule)
}

/// Puts a rule in our words, or says why not.
pub(super) fn rule(words: &[&str], found: &mut Found) -> Result<(), String> {
    let rule = parse(words)?;
    if let Some(other) = rule.other {
        return Err(format!("`{other}` has no counterpart: look at allow-in and allow-out of guests"));
    }
    match (rule.table, rule.command, rule.chain, rule.target) {
        // Viaduct's tables begin empty, and what is not allowed is dropped.
        (_, "-F", ..) | (_, "-P", _, "ACCEPT" | "-") | ("filter", "-P", _, "DROP") => Ok(()),
        ("nat", "-A", "POSTROUTING", "MASQUERADE") => translated(&rule, None, found),
        ("nat", "-A", "POSTROUTING", "SNAT") => {
            let to = rule.sources.ok_or("the new source is missing")?;
            let to = to.parse().map_err(|_| format!("`{to}` is no address"))?;
            translated(&rule, Some(to), found)
        }
        ("nat", "-A", "PREROUTING", "DNAT") => published(&rule, found),
        ("filter", "-A", "FORWARD", "ACCEPT") => forwarded(&rule, found),
        ("filter", "-A", "INPUT", "ACCEPT") if rule.port == Some("67") => {
            found.dhcp = true;
            Ok(())
        }
        _ => Err("this rule has no counterpart: look at allow-in, allow-out, inbound and to-host".to_owned()),
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    net(text).map(|net| net.trunc()).ok_or_else(|| format!("`{text}` is no address"))
}

fn translated(rule: &Rule<'_>, to: Option<IpAddr>, found: &mut Found) -> Result<(), String> {
    let from = prefix(rule.from.ok_or("it translates everybody: write which subnet it is for")?)?;
    if let Some(outside) = rule.outside {
        found.outside = Some(outside.to_owned());
    }
    found.translated.insert(from, to);
    Ok(())
}

fn published(rule: &Rule<'_>, found: &mut Found) -> Result<(), String> {
    let address = rule.to.map(prefix).transpose()?.map(|net| net.addr());
    let ports = ports(rule.port.ok_or("which port is missing: a whole address is a routed guest's")?)?;
    let to = rule.sources.ok_or("where to is missing")?;
    let (to, to_ports) = match to.split_once(':') {
        Some((to, port)) => (to, self::ports(port)?),
        None => (to, ports),
    };
    let protocol = match rule.protocol {
        "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(format!("ports of `{other}` cannot be published")),
    };
    let to = to.parse().map_err(|_| format!("`{to}` is no address"))?;
    if let Some(inside) = rule.inside {
        found.outside = Some(inside.to_owned());
    }
    found.published.push(Published { address, ports, to, to_ports, protocol });
    Ok(())
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port"));
    match text.split_once([':', '-']) {
        Some((first, last)) => Ok((port(first)?, port(last)?)),
        None => port(text).map(|port| (port, port)),
    }
}

fn forwarded(rule: &Rule<'_>, found: &mut Found) -> Result<(), String> {
    let is_bridge = |name: Option<&str>| name.is_some_and(|name| name.ends_with('+'));
    if let Some(state) = rule.state {
        let answers = state.split(',').all(|word| matches!(word, "RELATED" | "ESTABLISHED"));
        // Answers are always let through.
        return if answers { Ok(()) } else { Err(format!("the state `{state}` has no counterpart")) };
    }
    if !rule.protocol.is_empty() || rule.port.is_some() {
        return Err("write it as allow-in of the guest that it is for".to_owned());
    }
    match (is_bridge(rule.inside), is_bridge(rule.outside)) {
        (true, true) => {
            rule.from.map(prefix).transpose()?;
            rule.to.map(prefix).transpose()?;
            found.between_guests = true;
        }
        // Guests reach the outside unless allow-out says otherwise.
        (true, false) => {
            rule.from.map(prefix).transpose()?;
            found.outside = rule.outside.map(str::to_owned).or_else(|| found.outside.take());
        }
        (false, true) => {
            found.open.insert(prefix(rule.to.ok_or("it opens everything: write which addresses")?)?);
            found.outside = rule.inside.map(str::to_owned).or_else(|| found.outside.take());
        }
        (false, false) => return Err("which guests it is for is not clear".to_owned()),
    }
    Ok(())
}
