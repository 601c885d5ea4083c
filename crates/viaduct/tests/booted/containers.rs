//! Containers of systemd-nspawn as guests, by their own units and our drop-in.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{
    busybox, install,
    machine::{Machine, World, sh, world},
    make,
};

const CONFIG: &str = r#"
[host]
name = "machine"

[uplinks.wan]
interface = "eth0"

[networks.services]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24", "fd00:1::/64"]

[networks.backend]
mode = "isolated"
subnets = ["10.1.0.0/24"]

[guests.web]
publish = ["203.0.113.2:8080:80/tcp"]
[[guests.web.nics]]
network = "services"
addresses = ["192.168.1.7", "fd00:1::7"]
[[guests.web.nics]]
network = "backend"
addresses = ["10.1.0.5"]

[namespaces.dmz]
[[namespaces.dmz.interfaces]]
name = "mac0"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.9/24"]

[guests.mail]
namespace = "dmz"
[guests.mail.hooks]
prepare = "/root/hook"
stopped = "/root/hook"
"#;

/// The first process of a container: serves its name, and ends when it is told to.
const INIT: &str =
    "#!/bin/sh\ntrap 'exit 0' TERM\nhostname >/srv/index.html\nhttpd -h /srv\nwhile :; do sleep 0.1; done\n";

/// A container that the machine has, with our drop-in beside its unit.
fn container(world: &World, name: &str, busybox: &Path) {
    let tree = |path: &str| format!("/var/lib/machines/{name}/{path}");
    for directory in ["bin", "sbin", "etc", "usr", "proc", "sys", "dev", "run", "tmp", "var", "root", "srv"] {
        fs::create_dir_all(world.path(&tree(directory))).unwrap();
    }
    fs::copy(busybox, world.path(&tree("bin/busybox"))).unwrap();
    for applet in ["sh", "hostname", "httpd", "sleep"] {
        std::os::unix::fs::symlink("busybox", world.path(&tree(&format!("bin/{applet}")))).unwrap();
    }
    world.write(&tree("etc/os-release"), "ID=busybox\n");
    world.write(&tree("sbin/init"), INIT);
    fs::set_permissions(world.path(&tree("sbin/init")), fs::Permissions::from_mode(0o755)).unwrap();
    // A container in a container has no users of its own: its /proc would be another one than the outer's allows.
    world.write(
        &format!("/etc/systemd/nspawn/{name}.nspawn"),
        "[Exec]\nPrivateUsers=no\nKillSignal=SIGTERM\n",
    );
    let drop_in = world.path(&format!("/etc/systemd/system/systemd-nspawn@{name}.service.d"));
    fs::create_dir_all(&drop_in).unwrap();
    std::os::unix::fs::symlink("/usr/share/viaduct/systemd-nspawn.conf", drop_in.join("viaduct.conf"))
        .unwrap();
}

fn attached(machine: &Machine<'_>) -> [bool; 2] {
    let status = machine.status();
    [0, 1].map(|nic| !status["guests"]["web"]["nics"][nic]["attachment"].is_null())
}

fn fetch(url: &str) -> String {
    let script =
        "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode().strip())";
    sh(&format!("ip netns exec outside python3 -c '{script}' {url}"))
}

#[test]
fn a_container_of_nspawn_is_connected_when_its_unit_is_up_and_until_it_is_stopped() {
    let busybox = busybox();
    world(move |world| {
        make(&world.path("/root/viaduct.deb"));
        install(world);
        for name in ["web", "mail", "stranger"] {
            container(world, name, &busybox);
        }
        world.write("/root/hook", "#!/bin/sh\necho $VIADUCT_PHASE >>/root/hooked\n");
        fs::set_permissions(world.path("/root/hook"), fs::Permissions::from_mode(0o755)).unwrap();
        world.write("/etc/viaduct/viaduct.toml", CONFIG);

        let mut machine = world.boot();
        world.plug_in();
        machine.soon("it is up", |machine| machine.does("test -e /before-guests"));
        machine.has_its_address();
        machine.sh("viaduct apply");

        machine.sh(
            "systemctl start systemd-nspawn@web || { journalctl --no-pager -u systemd-nspawn@web; exit 1; }",
        );
        assert_eq!(attached(&machine), [true, true]);
        assert_eq!(fetch("http://203.0.113.2:8080/"), "web\n");
        for address in ["192.168.1.7", "10.1.0.5", "fd00:1::7"] {
            machine.sh(&format!("ping -c 1 -W 5 {address}"));
        }
        machine.sh("systemctl restart systemd-nspawn@web");
        assert_eq!(attached(&machine), [true, true]);
        assert_eq!(fetch("http://203.0.113.2:8080/"), "web\n");
        machine.sh("systemctl stop systemd-nspawn@web");
        assert_eq!(attached(&machine), [false, false]);

        // Who cannot be connected is not left running.
        assert!(!machine.does("systemctl start systemd-nspawn@stranger"));
        assert!(!machine.does("machinectl show stranger"));
        let said = machine.sh("journalctl --no-pager -u systemd-nspawn@stranger");
        assert!(said.contains("is no guest with a NIC"), "{said}");

        // In a namespace that guests share, with its hooks.
        machine.sh("systemctl start systemd-nspawn@mail || { journalctl --no-pager -u systemd-nspawn@mail; exit 1; }");
        assert_eq!(fetch("http://203.0.113.9/"), "mail\n");
        machine.sh("systemctl stop systemd-nspawn@mail");
        sh("ip netns exec outside ping -c 1 -W 5 203.0.113.9");
        assert_eq!(world.read("/root/hooked"), "prepare\nstopped\n");
        machine.shut_down();
    });
}
