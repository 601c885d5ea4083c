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
const DEVICE: &str = "mac0";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);

pub(super) const BARE: &str = "`ip -batch` and bare netlink";
pub(super) const APPLY: &str = "`viaduct apply`";
pub(super) const BEYOND: &str = "**`viaduct apply` − bare**";
pub(super) const DOWN: &str = "`viaduct down`";

pub(super) fn measure(sandbox: &Sandbox, host: &Machine, quick: bool, page: &mut Page) -> Result<(), String> {
    let sizes: &[u32] = if quick { &[20] } else { &[20, 200] };
    let mut columns = Vec::new();
    for &size in sizes {
        eprintln!("scale: {} shared namespaces", count(size));
        let mut column = Column::default();
        let viaduct = Viaduct::new(sandbox, host, &configuration(size))?;
        for _ in 0..LONG_ROUNDS {
            let bare = timed(|| make(sandbox, host, size))?;
            add(&mut column.make, BARE, bare);
            add(&mut column.away, BARE, timed(|| away(sandbox, host, size))?);
            let apply = timed(|| viaduct.run(&["apply"]))?;
            add(&mut column.make, APPLY, apply);
            add(&mut column.make, BEYOND, apply - bare);
            add(&mut column.away, DOWN, timed(|| viaduct.run(&["down"]))?);
        }
        viaduct.forget()?;
        columns.push((size, column));
    }
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

fn name(number: u32) -> String {
    format!("shared{number}")
}

fn addresses(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (number + 2).to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

fn configuration(count: u32) -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n".to_owned();
    for number in 0..count {
        let (name, address) = (name(number), addresses(number));
        let _ = write!(
            text,
            "[[namespaces.{name}.interfaces]]\nname = \"{DEVICE}\"\ntype = \"macvlan\"\nparent = \"wan\"\n\
             addresses = [\"{address}/16\"]\ngateways = [\"{GATEWAY}\"]\n"
        );
    }
    text
}

/// Runs `ip` with such a line for each namespace, on the host.
fn batch(sandbox: &Sandbox, host: &Machine, count: u32, line: impl Fn(&str) -> String) -> Result<(), String> {
    let lines: String = (0..count).map(|number| line(&name(number))).collect();
    let file = sandbox.file("shared.batch", &lines)?;
    output(host.enter("ip").arg("-batch").arg(file)).map(|_| ())
}

fn make(sandbox: &Sandbox, host: &Machine, count: u32) -> Result<(), String> {
    batch(sandbox, host, count, |name| {
        format!("netns add {name}\nlink add link eth0 name {DEVICE} netns {name} type macvlan mode bridge\n")
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
    batch(sandbox, host, count, |name| format!("netns delete {name}\n"))
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}
