//! Scripts of `iptables` and `ip` lines: assignments, `for` loops and comments of the shell, and nothing beyond.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    LeftOut,
    found::{Found, lines, net},
    iptables,
};
use crate::Source;

/// Loops in loops beyond this, or longer than this, are no script for a host's network.
const MOST_LINES: usize = 20_000;

pub(super) fn read(source: &Source, found: &mut Found) {
    let all: Vec<(usize, &str)> = lines(&source.text).map(|(number, line)| (number, line.trim())).collect();
    let mut shell = Shell { source, variables: BTreeMap::new(), done: 0 };
    shell.run(&all, found);
}

struct Shell<'s> {
    source: &'s Source,
    variables: BTreeMap<String, String>,
    done: usize,
}

impl Shell<'_> {
    fn run(&mut self, all: &[(usize, &str)], found: &mut Found) {
        let mut at = 0;
        while let Some((number, text)) = all.get(at).copied() {
            at += 1;
            self.done += 1;
            if self.done > MOST_LINES {
                found.leave(self.source, number, text, "the script goes on for too long");
                return;
            }
            let text = without_comment(text).trim_end_matches([';', ' ']);
            if let Some(head) = text.strip_prefix("for ") {
                let end = at + body(&all[at..]);
                let inner = &all[at..end.min(all.len())];
                at = end + 1;
                let head = head.trim_end_matches("do").trim_end_matches([';', ' ']);
                let Some((variable, words)) = head.split_once(" in ") else {
                    found.leave(self.source, number, text, "this loop was not understood");
                    continue;
                };
                let values = self.expand(words);
                for value in values.split_whitespace() {
                    self.variables.insert(variable.trim().to_owned(), value.to_owned());
                    self.run(inner, found);
                }
            } else if text == "do" || text == "done" {
            } else if let Some((name, value)) = assignment(text) {
                let value = self.expand(value.trim_matches(['"', '\'']));
                self.variables.insert(name.to_owned(), value);
            } else {
                let expanded = self.expand(text);
                line(self.source, number, &expanded, found);
            }
        }
    }

    /// Puts variables' values in their place; one that nobody has set stays as it is.
    fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let braced = after.strip_prefix('{');
            let body = braced.unwrap_or(after);
            let length = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
            let (name, mut tail) = body.split_at(length);
            if braced.is_some() {
                tail = tail.strip_prefix('}').unwrap_or(tail);
            }
            match self.variables.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push('$');
                    out.push_str(name);
                }
            }
            rest = tail;
            if out.len() > 1 << 16 {
                break;
            }
        }
        out + rest
    }
}

/// How many lines stand before the `done` of a loop.
fn body(lines: &[(usize, &str)]) -> usize {
    let mut depth = 0;
    for (index, (_, text)) in lines.iter().enumerate() {
        if text.starts_with("for ") {
            depth += 1;
        } else if text.trim_end_matches([';', ' ']) == "done" {
            if depth == 0 {
                return index;
            }
            depth -= 1;
        }
    }
    lines.len()
}

fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_one = value.starts_with(['"', '\'']) || !value.contains(' ');
    (is_name && is_one).then_some((name, value))
}

fn without_comment(text: &str) -> &str {
    let comment = text.find(" #").or_else(|| text.starts_with('#').then_some(0));
    comment.map_or(text, |at| &text[..at]).trim()
}

/// One command.
pub(super) fn line(source: &Source, number: usize, text: &str, found: &mut Found) {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [] => {}
        [command, ref arguments @ ..] if is_iptables(command) => {
            if let Err(why) = iptables::rule(arguments, found) {
                found.leave(source, number, text, why);
            }
        }
        // Viaduct forwards and answers for addresses where its networks need it.
        ["echo", "1", ">", ref path @ ..] if is_forwarding(&path.concat()) => {}
        ["sysctl", .., setting] if is_forwarding(&setting.replace('.', "/")) => {}
        _ if route(source, number, text, found) => {}
        _ => found.leave(source, number, text, "this command has no counterpart"),
    }
}

fn is_iptables(command: &str) -> bool {
    let name = command.rsplit('/').next().unwrap_or_default().trim_start_matches('$');
    matches!(name.to_ascii_lowercase().as_str(), "iptables" | "ip6tables" | "ipt")
}

fn is_forwarding(path: &str) -> bool {
    path.contains("ip_forward")
        || path.contains("/forwarding")
        || path.contains("/proxy_arp")
        || path.contains("/proxy_ndp")
}

/// A route to one address by a device, in the words of `ip` or of `route`.
pub(super) fn route(source: &Source, number: usize, text: &str, found: &mut Found) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (address, device) = match words[..] {
        ["ip", "route", "add" | "replace", address, "dev", device] => (address, device),
        ["route", "add", "-host", address, "dev", device] | ["route", "add", "-host", address, device] => {
            (address, device)
        }
        _ => return false,
    };
    let Some(net) = net(address).filter(|net| net.prefix_len() == net.max_prefix_len()) else { return false };
    let address: IpAddr = net.addr();
    let nobody = LeftOut::at(source, number, text, "no guest is there");
    found.host_routes.insert(address, (device.to_owned(), nobody));
    true
}
