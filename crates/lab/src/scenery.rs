//! Switches, wires and what a system sets up before Viaduct runs.

use std::{fmt::Write, io, os::fd::AsFd, process::Command, time::Duration};

use viaduct_types::IfName;

use crate::{
    file::{Interface, Lab, Machine, Name, Switch},
    world::{World, batch, enter, finish, ip, sysctl},
};

/// Builds everything outside of the hosts, and the hosts' own network cards.
pub(crate) fn build(lab: &Lab, world: &World) -> io::Result<()> {
    // The switches are no machines: they have no addresses and say nothing by themselves.
    sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    ip(world.scenery.as_fd(), &wires(lab))?;
    let vlans = vlans(lab);
    if !vlans.is_empty() {
        batch("bridge", world.scenery.as_fd(), &vlans)?;
    }
    for (name, machine) in &lab.machines {
        ip(world.machines[name].net.as_fd(), &cards(machine))?;
    }
    impair(lab, world)
}

/// A switch's device.
pub(crate) fn bridge_name(lab: &Lab, switch: &Name) -> String {
    // Numbers, since names may be longer than a device's.
    let index = lab.switches.keys().position(|name| name == switch).unwrap_or_default();
    format!("sw{index}")
}

fn wires(lab: &Lab) -> String {
    let mut lines = String::new();
    let mut line = |text: String| {
        lines.push_str(&text);
        lines.push('\n');
    };
    for (name, switch) in &lab.switches {
        let device = bridge_name(lab, name);
        let mtu = mtu(switch);
        let vlans = if lab.has_vlans(name) { " vlan_filtering 1" } else { "" };
        line(format!("link add {device}{mtu} type bridge forward_delay 0 mcast_snooping 0{vlans}"));
        line(format!("link set {device} alias \"{name}\" up"));
    }
    for (port, name, card, interface) in ports(lab) {
        let switch = bridge_name(lab, &interface.switch);
        let mtu = mtu(&lab.switches[&interface.switch]);
        let mac = interface.mac.map_or_else(String::new, |mac| format!(" address {mac}"));
        line(format!("link add {port}{mtu} type veth peer name {card} netns {name}{mac}{mtu}"));
        line(format!("link set {port} alias \"{name} {card}\" master {switch} up"));
    }
    lines
}

/// Which VLANs the ports of switches are in, for `bridge`: one without tags, or, on a trunk, all of them with tags and
/// the first without.
fn vlans(lab: &Lab) -> String {
    let mut lines = String::new();
    for (port, _, _, interface) in ports(lab).filter(|(.., card)| lab.has_vlans(&card.switch)) {
        // Writing into a String cannot fail.
        let _ = match interface.vlan {
            Some(vlan) => {
                writeln!(lines, "vlan del dev {port} vid 1\nvlan add dev {port} vid {vlan} pvid untagged")
            }
            None => writeln!(lines, "vlan add dev {port} vid 2-4094"),
        };
    }
    lines
}

fn cards(machine: &Machine) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for (card, interface) in &machine.interfaces {
        // Writing into a String cannot fail.
        let _ = writeln!(lines, "link set {card} up");
        for address in &interface.addresses {
            let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
            let _ = writeln!(lines, "addr add {address} dev {card}{nodad}");
        }
    }
    for (card, interface) in &machine.interfaces {
        for gateway in &interface.gateways {
            let family = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let _ = writeln!(lines, "route add {family} via {gateway} dev {card} onlink");
        }
    }
    for route in &machine.routes {
        let _ = write!(lines, "route add {}", route.to);
        if let Some(via) = route.via {
            let _ = write!(lines, " via {via}");
        }
        if let Some(dev) = &route.dev {
            let _ = write!(lines, " dev {dev}");
        }
        lines.push('\n');
    }
    lines
}

/// Delay and loss, on the switch's side of each wire and therefore in the direction towards the machine.
fn impair(lab: &Lab, world: &World) -> io::Result<()> {
    for (port, _, _, interface) in ports(lab) {
        let switch = &lab.switches[&interface.switch];
        if switch.delay.is_none() && switch.loss_percent.is_none() {
            continue;
        }
        let mut command = Command::new("tc");
        command.args(["qdisc", "add", "dev", &port, "root", "netem"]);
        if let Some(delay) = switch.delay {
            command.args(["delay", &format!("{}ms", delay.as_millis())]);
        }
        if let Some(loss) = switch.loss_percent {
            command.args(["loss", &format!("{loss}%")]);
        }
        let finished = finish(enter(&mut command, world.scenery.as_fd()), "", Duration::from_secs(30))?;
        if !finished.status.is_some_and(|status| status.success()) {
            let message = format!("delay and loss need the kernel's netem: {}", finished.output);
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

fn mtu(switch: &Switch) -> String {
    switch.mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"))
}

/// Each wire: the switch's port, the machine, and its network card.
fn ports(lab: &Lab) -> impl Iterator<Item = (String, &Name, &IfName, &Interface)> {
    lab.machines
        .iter()
        .flat_map(|(name, machine)| {
            machine.interfaces.iter().map(move |(card, interface)| (name, card, interface))
        })
        .enumerate()
        .map(|(index, (name, card, interface))| (format!("port{index}"), name, card, interface))
}
