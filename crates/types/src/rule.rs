//! Routing rules (`ip rule`), as far as configurations have them.

use std::fmt;

use ipnet::IpNet;

/// The routing protocol number (rtm_protocol, ifa_proto, ndm protocol) of everything that we put into tables which
/// others write, too.
pub const PROTOCOL: u8 = 86;
/// The table that routes are in unless another one is said.
pub const MAIN_TABLE: u32 = 254;
/// The table that is asked last.
const DEFAULT_TABLE: u32 = 253;

/// Which table is asked for which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutingRule {
    /// Lower ones are asked first.
    pub priority: u32,
    /// Of IPv6, not of IPv4.
    pub v6: bool,
    /// Those from here; none: from anywhere.
    pub from: Option<IpNet>,
    /// Those to here; none: to anywhere.
    pub to: Option<IpNet>,
    /// The table.
    pub table: u32,
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, v6, from, to, table } = self;
        write!(f, "rule {priority}: ")?;
        match (from, to) {
            (None, None) => write!(f, "all of IPv{}", if *v6 { 6 } else { 4 })?,
            (Some(from), None) => write!(f, "from {from}")?,
            (None, Some(to)) => write!(f, "to {to}")?,
            (Some(from), Some(to)) => write!(f, "from {from} to {to}")?,
        }
        f.write_str(" → ")?;
        write_table(*table, f)
    }
}

/// Writes what a table is called.
///
/// # Errors
/// When it cannot be written.
pub fn write_table(table: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match table {
        MAIN_TABLE => f.write_str("table main"),
        DEFAULT_TABLE => f.write_str("table default"),
        table => write!(f, "table {table}"),
    }
}

/// A table's number, from that or its name.
pub fn table_number(text: &str) -> Option<u32> {
    // 255 is the kernel's own.
    const LOCAL: u32 = 255;
    match text {
        "main" => Some(MAIN_TABLE),
        "default" => Some(DEFAULT_TABLE),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|table| ![0, LOCAL].contains(table))
        }
        _ => None,
    }
}
