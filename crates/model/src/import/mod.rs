//! What other systems' files say of a host's network, as a configuration of ours. What cannot be carried over is listed
//! with its place; nothing is left out without a word.

mod dhcpd;
mod found;
mod ifupdown;
mod iptables;
mod openvz;
mod script;
mod vserver;
mod write;
mod xen;

use std::fmt;

use crate::Source;
use found::Found;

/// Whose files they are. Interfaces, DHCP servers' files and scripts of `iptables` lines are read with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `/etc/vservers/NAME/…` of util-vserver.
    Vserver,
    /// `/etc/vz/vz.conf` and `CTID.conf`.
    Openvz,
    /// `xend-config.sxp`, the files of domains and those of vnets.
    Xen,
    /// `/etc/network/interfaces`.
    Ifupdown,
}

/// A configuration made of others' files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A commented configuration.
    pub toml: String,
    /// What it does not say though the files do, in their order.
    pub left_out: Vec<LeftOut>,
}

/// Lines that were not carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// As its source is called.
    pub file: String,
    /// The first, counted from 1.
    pub line: usize,
    /// The last: neighbours that are left out for the same reason are one.
    pub last: usize,
    /// The first line's text.
    pub text: String,
    /// Why, or what to do about it.
    pub why: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if self.last > self.line {
            write!(f, "-{}", self.last)?;
        }
        write!(f, ": {}: {}", self.text, self.why)
    }
}

/// Reads the files, and writes what they say as a configuration.
pub fn import(format: Format, sources: &[Source]) -> Imported {
    let mut found = Found::default();
    for source in sources {
        read(format, source, &mut found);
    }
    let toml = write::configuration(&mut found);
    let order = |file: &str| sources.iter().position(|source| source.name == file);
    let mut left_out = found.left_out;
    left_out.sort_by_key(|left| (order(&left.file), left.line));
    left_out.dedup();
    let toml = write::with_left_out(&toml, &left_out);
    Imported { toml, left_out }
}

fn read(format: Format, source: &Source, found: &mut Found) {
    let name = source.name.rsplit('/').next().unwrap_or_default();
    let says = |word: &str| source.text.lines().any(|line| line.trim_start().starts_with(word));
    if name.contains("dhcpd.conf") {
        dhcpd::read(source, found);
    } else if says("*nat") || says("*filter") || says("*mangle") || says("*raw") {
        iptables::read_saved(source, found);
    } else if name == "interfaces" || source.name.contains("interfaces.d/") || says("iface ") {
        ifupdown::read(source, found);
    } else if format == Format::Vserver && source.name.contains("/vservers/") {
        vserver::read(source, found);
    } else if format == Format::Openvz && (name == "vz.conf" || name.ends_with(".conf")) {
        openvz::read(source, found);
    } else if format == Format::Xen && says("(vnet") {
        xen::read_vnet(source, found);
    } else if format == Format::Xen && ["(vm", "(device", "(dev "].iter().any(|word| says(word)) {
        xen::read_domain_sxp(source, found);
    } else if format == Format::Xen && (name.ends_with(".sxp") || says("(")) {
        xen::read_daemon(source, found);
    } else if format == Format::Xen && (says("vif") || says("name")) {
        xen::read_domain(source, found);
    } else if name.ends_with(".sh") || says("#!") || source.text.contains("iptables") {
        script::read(source, found);
    } else {
        for (line, text) in found::lines(&source.text) {
            found.leave(source, line, text, "what this file is was not understood");
        }
    }
}
