//! What devices in namespaces are given, and the namespaces themselves.

use std::net::IpAddr;

use serde_json::{Value as Json, json};
use viaduct_types::{IpNet, Ipv4Net, Ipv6Net, MAIN_TABLE, table_number};

use super::{Text, Wrong, prefix, read, wrong};
use crate::{report::Report, shape::Read, tree::Node};

/// A route: a prefix with zero host bits, by a gateway or on-link, in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StaticRoute {
    pub(crate) to: IpNet,
    pub(crate) via: Option<IpAddr>,
    pub(crate) table: u32,
}

/// How a table is written.
macro_rules! table_name {
    () => {
        "(?:main|default|[0-9]{1,10})"
    };
}

text!(
    StaticRoute,
    "a route",
    concat!(
        "(?:(?:",
        ip!(),
        "|",
        net!(),
        ")(?: via (?:",
        ip!(),
        "))?|default via (?:",
        ip!(),
        "))(?: table ",
        table_name!(),
        ")?"
    ),
    |text| {
        const HELP: &str = "write PREFIX via ADDRESS, like \"198.51.100.0/24 via 10.2.0.1\", and behind it, if need be, \
        table NUMBER";
        in_small_letters(text, &["default", "via", "table", "main"])?;
        let (rest, table) = match text.split_once(" table ") {
            Some((rest, table)) => (rest, table_of(table)?),
            None => (text, MAIN_TABLE),
        };
        let (to, via) = match rest.split_once(" via ") {
            Some((to, via)) => (to, Some(via)),
            None => (rest, None),
        };
        let to = match (to, via.map(str::parse::<IpAddr>)) {
            ("default", Some(Ok(via))) if via.is_ipv4() => IpNet::V4(Ipv4Net::default()),
            ("default", Some(Ok(_))) => IpNet::V6(Ipv6Net::default()),
            ("default", None) => return wrong("it does not say of which family", "write 0.0.0.0/0 or ::/0"),
            (to, _) => prefix(to)?,
        };
        let via = match via.map(str::parse::<IpAddr>) {
            None => None,
            Some(Ok(via)) if via.is_ipv4() == to.addr().is_ipv4() => Some(via),
            Some(Ok(_)) => return wrong("its ends are of different families", HELP),
            Some(Err(_)) => return wrong("the gateway is no address", HELP),
        };
        Ok(Self { to, via, table })
    }
);

/// Whether the words that `ip` knows are written as it knows them.
fn in_small_letters(text: &str, known: &[&str]) -> Result<(), Wrong> {
    let is_meant = |word: &&str| known.iter().any(|known| known != word && known.eq_ignore_ascii_case(word));
    match text.split(' ').find(is_meant) {
        Some(word) => {
            wrong(format!("`{word}` is not in small letters"), format!("write {}", word.to_ascii_lowercase()))
        }
        None => Ok(()),
    }
}

fn table_of(text: &str) -> Result<u32, Wrong> {
    match table_number(text) {
        Some(table) => Ok(table),
        None => wrong(
            format!("{text} is no routing table of yours"),
            "write a number from 1 to 4294967295 but 255, or main, or default",
        ),
    }
}

/// A routing rule as `ip rule` has it; the priority may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleSpec {
    pub(crate) from: Option<IpNet>,
    pub(crate) to: Option<IpNet>,
    pub(crate) table: u32,
    pub(crate) priority: Option<u32>,
}

text!(
    RuleSpec,
    "a routing rule",
    concat!(
        "(?:(?:from|to) (?:all|",
        ip!(),
        "|",
        net!(),
        ") )*table ",
        table_name!(),
        "(?: priority [0-9]{1,5})?"
    ),
    |text| {
        const HELP: &str = "write it like \"from 10.2.0.0/24 to 198.51.100.0/24 table 100 priority 1000\"; from, to and \
            priority may be left out";
        in_small_letters(text, &["from", "to", "all", "table", "main", "default", "priority"])?;
        let (mut from, mut to, mut table, mut priority) = (None, None, None, None);
        let mut words = text.split(' ');
        while let Some(word) = words.next() {
            let Some(value) = words.next() else {
                return wrong(format!("nothing stands behind `{word}`"), HELP);
            };
            let end = || if value == "all" { Ok(None) } else { prefix(value).map(Some) };
            match word {
                "from" if from.is_none() && table.is_none() => from = Some(end()?),
                "to" if to.is_none() && table.is_none() => to = Some(end()?),
                "table" if table.is_none() => table = Some(table_of(value)?),
                // The kernel's own are 0, 32766 and 32767.
                "priority" if priority.is_none() && table.is_some() => match number(value) {
                    Some(number @ 1..=32765) => priority = Some(number),
                    _ => return wrong(format!("{value} is no priority"), "write a number from 1 to 32765"),
                },
                _ => return wrong(format!("`{word}` does not belong there"), HELP),
            }
        }
        let (from, to) = (from.flatten(), to.flatten());
        if let (Some(from), Some(to)) = (from, to)
            && from.addr().is_ipv4() != to.addr().is_ipv4()
        {
            return wrong("its ends are of different families", HELP);
        }
        match table {
            Some(table) => Ok(Self { from, to, table, priority }),
            None => wrong("it does not say which table is asked", HELP),
        }
    }
);

/// A setting of a network namespace by its name, as sysctl(8) takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SysctlName {
    /// Its path under /proc/sys.
    pub(crate) path: String,
}

text!(SysctlName, "a setting", r"net[./][!-~]+", |text| {
    // What the name separates with first is what it separates with; the other one stands for it inside of a name.
    let dots = text.find('.').is_some_and(|dot| text.find('/').is_none_or(|slash| dot < slash));
    let swapped = |c: char| match c {
        '.' if dots => '/',
        '/' if dots => '.',
        other => other,
    };
    let path: String = text.chars().map(swapped).collect();
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if !path.starts_with("net/") || path.split('/').any(bad) || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong(
            "it is no setting of a network namespace",
            "write one that begins with net., like net.ipv4.ip_forward; dots in a device's name become slashes",
        );
    }
    Ok(Self { path })
});

/// Two priorities: from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PriorityPair(pub(crate) u32, pub(crate) u32);

text!(PriorityPair, "a pair of priorities", "[0-9]{1,10}:[0-9]{1,10}", |text| {
    let pair = text.split_once(':').and_then(|(from, to)| Some((number(from)?, number(to)?)));
    match pair {
        Some((from, to)) => Ok(Self(from, to)),
        None => wrong("it is not two numbers", "write FROM:TO, like \"5:3\""),
    }
});

/// Digits only: no sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
