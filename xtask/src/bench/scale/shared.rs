//! Namespaces that guests share, each with a device in the uplink's segment, made from nothing and taken away: by
//! Viaduct, and by what the kernel needs for the same.

use std::{fmt::Write as _, net::Ipv4Addr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};

use super::{
    super::{
        sandbox::{Machine, Sandbox, output},
        table::{Page, count},
        viaduct::Viaduct,
    },
    Column, LONG_ROUNDS, add,
    bare::{address, elsewhere, index_named, open, route, send},
    report::rows,
    timed,
};

/// The device in each.
const DEVICE: &str = "in0";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);

pub(super) const BARE: &str = "`ip -batch` and bare netlink";
pub(super) const APPLY: &str = "`viaduct apply`";
pub(super) const BEYOND: &str = "**`viaduct apply` − bare**";
pub(super) const DOWN: &str = "`viaduct down`";

const APPLY_RATIO: &str = "**`viaduct apply` ÷ bare**";
const DOWN_RATIO: &str = "**`viaduct down` ÷ bare**";

/// What is in each.
#[derive(Clone, Copy, Debug)]
enum Devices {
    Macvlan,
    /// With a tag of its own, which takes a kernel that has 802.1Q.
    Vlan,
}

impl Devices {
    /// What the bare kernel is told to make.
    fn kind(self, number: u32) -> String {
        match self {
            Self::Macvlan => "macvlan mode bridge".to_owned(),
            Self::Vlan => format!("vlan id {}", tag(number)),
        }
    }

    /// The same in the configuration.
    fn lines(self, number: u32) -> String {
        match self {
            Self::Macvlan => "type = \"macvlan\"\n".to_owned(),
            Self::Vlan => format!("type = \"vlan\"\nvlan = {}\n", tag(number)),
        }
    }
}

/// The first has a meaning of its own.
fn tag(number: u32) -> u32 {
    number + 2
}

pub(super) fn measure(sandbox: &Sandbox, host: &Machine, quick: bool, page: &mut Page) -> Result<(), String> {
    let columns = columns(sandbox, host, quick, Devices::Macvlan)?;
    let columns: Vec<&(u32, Column)> = columns.iter().collect();
    page.section(
        "Namespaces that guests share",
        "Each has a macvlan device on the uplink with an address and a gateway. For the bare kernel, one `ip -batch` makes \
         all namespaces and devices, and netlink in each the rest; taken away, each device is deleted by a message of its own, \
         which the kernel answers when nobody uses it any more, and one `ip -batch` deletes the names. `apply` and `down` are \
         whole processes, with a look at everything before and after.",
    );
    page.paragraph("All from nothing, ms:");
    page.table(&rows("namespaces:", &[BARE, APPLY, BEYOND], &columns, |column| &column.make));
    page.paragraph("All of them away, ms:");
    page.table(&rows("namespaces:", &[BARE, DOWN], &columns, |column| &column.away));
    Ok(())
}

/// The same with VLANs, in a machine with Debian's kernel.
pub(super) fn measure_vlans(
    sandbox: &Sandbox,
    host: &Machine,
    quick: bool,
    page: &mut Page,
) -> Result<(), String> {
    let columns = columns(sandbox, host, quick, Devices::Vlan)?;
    let columns: Vec<&(u32, Column)> = columns.iter().collect();
    page.section(
        "Namespaces with a VLAN each",
        "The same as with macvlan, but with a VLAN of its own in each, on Debian's kernel: in a virtual machine whose \
         processors are emulated, so that everything takes about ten times as long as on real ones. What tells is the ratio.",
    );
    page.paragraph("All from nothing, ms:");
    page.table(&rows("namespaces:", &[BARE, APPLY, BEYOND, APPLY_RATIO], &columns, |column| &column.make));
    page.paragraph("All of them away, ms:");
    page.table(&rows("namespaces:", &[BARE, DOWN, DOWN_RATIO], &columns, |column| &column.away));
    Ok(())
}

fn columns(
    sandbox: &Sandbox,
    host: &Machine,
    quick: bool,
    devices: Devices,
) -> Result<Vec<(u32, Column)>, String> {
    let sizes: &[u32] = if quick { &[20] } else { &[20, 200] };
    let mut columns = Vec::new();
    for &size in sizes {
        eprintln!("scale: {} shared namespaces", count(size));
        let mut column = Column::default();
        let viaduct = Viaduct::new(sandbox, host, &configuration(size, devices))?;
        for _ in 0..LONG_ROUNDS {
            let bare = timed(|| make(sandbox, host, size, devices))?;
            add(&mut column.make, BARE, bare);
            let bare_away = timed(|| away(sandbox, host, size))?;
            add(&mut column.away, BARE, bare_away);
            let apply = timed(|| viaduct.run(&["apply"]))?;
            add(&mut column.make, APPLY, apply);
            add(&mut column.make, BEYOND, apply - bare);
            add(&mut column.make, APPLY_RATIO, apply / bare);
            let down = timed(|| viaduct.run(&["down"]))?;
            add(&mut column.away, DOWN, down);
            add(&mut column.away, DOWN_RATIO, down / bare_away);
        }
        viaduct.forget()?;
        columns.push((size, column));
    }
    Ok(columns)
}

fn name(number: u32) -> String {
    format!("shared{number}")
}

fn addresses(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (number + 2).to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

fn configuration(count: u32, devices: Devices) -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
    for number in 0..count {
        let (name, address, kind) = (name(number), addresses(number), devices.lines(number));
        let _ = write!(
            text,
            "[[namespaces.{name}.interfaces]]\nname = \"{DEVICE}\"\nparent = \"wan\"\n{kind}\
             addresses = [\"{address}/16\"]\ngateways = [\"{GATEWAY}\"]\n"
        );
    }
    text
}

/// Runs `ip` with such a line for each namespace, on the host.
fn batch(
    sandbox: &Sandbox,
    host: &Machine,
    count: u32,
    line: impl Fn(u32, &str) -> String,
) -> Result<(), String> {
    let lines: String = (0..count).map(|number| line(number, &name(number))).collect();
    let file = sandbox.file("shared.batch", &lines)?;
    output(host.enter("ip").arg("-batch").arg(file)).map(|_| ())
}

fn make(sandbox: &Sandbox, host: &Machine, count: u32, devices: Devices) -> Result<(), String> {
    batch(sandbox, host, count, |number, name| {
        let kind = devices.kind(number);
        format!("netns add {name}\nlink add link eth0 name {DEVICE} netns {name} type {kind}\n")
    })?;
    for number in 0..count {
        elsewhere(&name(number), || {
            let mut socket = open()?;
            let index = index_named(&socket, DEVICE)?;
            let messages = vec![
                up(1),
                address(index, addresses(number).into(), 16),
                up(index),
                route(index, None, Some(GATEWAY.into())),
            ];
            send(&mut socket, messages)
        })?;
    }
    Ok(())
}

fn away(sandbox: &Sandbox, host: &Machine, count: u32) -> Result<(), String> {
    for number in 0..count {
        elsewhere(&name(number), || {
            let mut socket = open()?;
            let mut message = LinkMessage::default();
            message.header.index = index_named(&socket, DEVICE)?;
            send(&mut socket, vec![RouteNetlinkMessage::DelLink(message)])
        })?;
    }
    batch(sandbox, host, count, |_, name| format!("netns delete {name}\n"))
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}
