//! Users of this machine, by name and number.

use std::fs;

/// Who runs this program; through sudo, who ran that.
pub(crate) fn who() -> String {
    std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let number = rustix::process::getuid().as_raw();
        name(number)
    })
}

/// A user's name; the number of who has none.
pub(crate) fn name(number: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find(|line| line.split(':').nth(2).is_some_and(|n| n.parse() == Ok(number)));
    entry.and_then(|line| line.split(':').next()).map_or_else(|| number.to_string(), str::to_owned)
}

/// A user's number, by name.
pub(crate) fn number(name: &str) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A group's number, by name.
pub(crate) fn group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
