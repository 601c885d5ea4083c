//! The Debian package on a machine that boots: what happens at its start, while it runs, and when the package is upgraded
//! and removed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod containers;
mod firewalld;
mod machine;
mod serves;
mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use machine::{Machine, OUTSIDE, World, repository, run, sh, world};
use traffic::{Traffic, serve};

/// The key of another host.
const PEER: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

const CONFIG: &str = r#"
[host]
name = "machine"

[uplinks.wan]
interface = "eth0"

[networks.services]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24"]

[guests.echo]
publish = ["203.0.113.2:7000:7/tcp", "203.0.113.2:7000:7/udp"]
[[guests.echo.nics]]
network = "services"
addresses = ["192.168.1.3"]

[guests.process]
[[guests.process.nics]]
network = "services"

[guests.vm]
[[guests.vm.nics]]
network = "services"
"#;

/// What the administrator of this machine has on it: an address by systemd-networkd, a packet filter of nftables that
/// begins with taking everybody's away, a virtualization that is Debian's by name, and what takes notes.
const FILES: &[(&str, &str)] = &[
    (
        "/etc/systemd/network/eth0.network",
        "[Match]\nName=eth0\n[Network]\nAddress=203.0.113.2/24\nGateway=203.0.113.1\n",
    ),
    (
        "/etc/systemd/system/note.service",
        "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=systemd-networkd.service\n\
         [Service]\nType=oneshot\nExecStart=/bin/sh -c 'nft list ruleset >/network; ip -brief address >>/network; mv /network /before-network'\n",
    ),
    (
        "/etc/systemd/system/libvirtd.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'nft list ruleset >/guests; ip -brief address >>/guests; mv /guests /before-guests'\n",
    ),
    // So that the test need not wait for a minute.
    ("/etc/systemd/system/viaduct.service.d/test.conf", "[Service]\nWatchdogSec=10s\n"),
];

fn has_what_it_is_to_have(package: &Path) {
    let list = run(Command::new("dpkg-deb").arg("--contents").arg(package));
    let files: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    for file in [
        "./usr/bin/viaduct",
        "./usr/lib/systemd/system/viaduct.service",
        "./usr/lib/systemd/system/viaduct-boot.service",
        "./usr/lib/systemd/system/systemd-nspawn@.service.d/viaduct.conf",
        "./usr/lib/sysusers.d/viaduct.conf",
        "./usr/share/man/man1/viaduct.1",
        "./usr/share/man/man1/viaduct-boot.1",
        "./usr/share/man/man1/viaduct-daemon.1",
        "./usr/share/bash-completion/completions/viaduct",
        "./usr/share/zsh/vendor-completions/_viaduct",
        "./usr/share/fish/vendor_completions.d/viaduct.fish",
        "./usr/share/doc/viaduct/examples/openvz/viaduct.toml",
        "./usr/share/doc/viaduct/changelog",
        "./usr/share/doc/viaduct/changelog.Debian",
        "./usr/share/doc/viaduct/copyright",
        "./etc/viaduct/conf.d/README",
        "./etc/libvirt/hooks/qemu.d/viaduct",
        "./etc/xen/scripts/vif-viaduct",
        "./usr/lib/viaduct/guest",
        "./usr/lib/viaduct/lxc-hook",
        "./usr/lib/viaduct/nspawn",
        "./usr/lib/viaduct/xen-compat/xm",
        "./usr/lib/viaduct/xen-compat/vn",
        "./usr/share/man/man1/viaduct-xm.1",
        "./usr/share/man/man1/viaduct-vn.1",
        "./usr/share/viaduct/lxc.conf",
        "./usr/share/viaduct/systemd-nspawn.conf",
    ] {
        assert!(files.iter().any(|name| name.trim_end_matches(".gz") == file), "no {file} in {list}");
    }
    // Xen's commands are links, and where nobody finds them who has not asked for them.
    assert_eq!(list.matches("/xen-compat/xm -> ../../../bin/viaduct\n").count(), 1, "{list}");
    assert_eq!(list.matches("/xen-compat/vn -> ../../../bin/viaduct\n").count(), 1, "{list}");
    assert!(!files.iter().any(|name| name.contains("bin/xm") || name.contains("bin/vn")), "{list}");
    // Nothing that would change a host by itself.
    assert!(!files.iter().any(|name| name.starts_with("./etc") && name.ends_with(".toml")), "{list}");
}

#[test]
fn a_machine_that_starts_and_restarts_runs_and_is_upgraded() {
    world(|world| {
        let package = world.path("/root/viaduct.deb");
        make(&package);
        has_what_it_is_to_have(&package);
        install(world);

        let mut machine = world.boot();
        world.plug_in();
        machine.soon("it is up", |machine| machine.does("test -e /before-guests"));
        assert_eq!(machine.property("ActiveState"), "active");
        assert!(machine.sh("viaduct status").contains("No configuration is applied"));
        set_up(world, &mut machine);
        lives(world, &mut machine);
        is_upgraded(world, &mut machine);

        world.write("/etc/viaduct/viaduct.toml", &CONFIG.replace(":7000:", ":7001:"));
        machine.sh("viaduct apply --confirm 1h");
        assert!(!echoes(7000) && echoes(7001), "the change is there");
        machine.shut_down();

        starts_again(world);
    });
}

/// Makes the package of the program that is tested.
fn make(package: &Path) {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    run(Command::new(repository().join("scripts/deb.sh")).arg(profile).arg(package));
}

/// Debian's busybox, which needs no libraries.
fn busybox() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lxc");
    let packages = ["lxc", "liblxc1", "liblxc-common", "busybox-static"];
    run(Command::new(repository().join("scripts/unpack.sh")).arg(&directory).args(packages));
    directory.join("bin/busybox")
}

/// The package on the disk of a machine that has never been up.
fn install(world: &World) {
    for (path, text) in FILES {
        world.write(path, text);
    }
    world.enable("note.service", "sysinit.target");
    world.enable("libvirtd.service", "multi-user.target");
    world.inside("systemctl enable systemd-networkd nftables; systemctl mask console-getty");
    world.inside("dpkg --install /root/viaduct.deb");
    world.inside(
        "systemd-analyze verify --man=no --recursive-errors=yes viaduct.service viaduct-boot.service",
    );
    assert!(world.read("/etc/group").contains("viaduct:"), "no group");
}

/// Applies a configuration, and attaches a guest of each kind.
fn set_up(world: &World, machine: &mut Machine<'_>) {
    world.write("/etc/viaduct/viaduct.toml", CONFIG);
    machine.has_its_address();
    machine.sh("viaduct apply");
    // Before there are any, and by its name alone where that is asked for.
    assert_eq!(machine.sh("PATH=/usr/lib/viaduct/xen-compat:$PATH; xm vnet-list && vn vnets"), "");
    machine.sh(&format!(
        "PATH=/usr/lib/viaduct/xen-compat:$PATH; vn vnet-create 97 && vn peer-add -k {PEER} 203.0.113.3"
    ));
    assert!(machine.sh("viaduct vnet list").contains("vnet97"));
    // This namespace comes after the daemon, which has its own view of the file system.
    machine.sh("ip netns add echo && viaduct attach echo --netns echo");
    machine.sh("ip netns exec echo ping -c 1 -W 5 203.0.113.1");
    serve(&machine.netns("echo"), 7);
    machine.sh(
        "setsid unshare --net sleep infinity >/dev/null 2>&1 & sleep 0.5; viaduct attach process --pid $!",
    );
    machine.sh("viaduct attach vm --tap");
    machine.sh("viaduct announce 203.0.113.2");
    // A write to /proc/sys is heard of, and by whom it was done.
    machine.sh("echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding");
    machine.soon("a setting is put right", |machine| {
        machine.sh("cat /proc/sys/net/ipv4/conf/eth0/forwarding").trim() == "1"
    });
}

/// The daemon may be restarted, killed and stopped; nobody notices.
fn lives(world: &World, machine: &mut Machine<'_>) {
    let traffic = traffic();
    machine.sh("systemctl restart viaduct");
    assert_eq!(machine.property("NRestarts"), "0");
    still_attached(machine);

    machine.sh("systemctl kill --signal=KILL viaduct");
    machine.soon("it is started again", |machine| {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    });
    still_attached(machine);

    // It tells systemd that it lives; when it no longer does, it is started again.
    let told = machine.property("WatchdogTimestampMonotonic");
    assert_eq!(machine.property("WatchdogUSec"), "10s");
    machine.soon("it says that it lives", |machine| machine.property("WatchdogTimestampMonotonic") != told);
    machine.sh("systemctl kill --signal=STOP viaduct");
    machine.soon("a daemon that hangs is started again", |machine| {
        machine.property("NRestarts") == "2" && machine.property("ActiveState") == "active"
    });
    still_attached(machine);
    traffic.lost_nothing();

    // Whoever waits to take an unconfirmed change back does so without the daemon that started it.
    let config = world.read("/etc/viaduct/viaduct.toml");
    world.write("/etc/viaduct/viaduct.toml", &config.replace(":7000:", ":7001:"));
    machine.sh("viaduct apply --confirm 4s && systemctl stop viaduct");
    machine.soon("the change is taken back", |_| echoes(7000));
    assert!(!echoes(7001));
    world.write("/etc/viaduct/viaduct.toml", &config);
    machine.sh("systemctl start viaduct");
}

/// The package is upgraded, removed and purged; nobody notices either.
fn is_upgraded(world: &World, machine: &mut Machine<'_>) {
    let traffic = traffic();
    let before = machine.property("MainPID");
    machine.sh("dpkg --install /root/viaduct.deb");
    assert_ne!(machine.property("MainPID"), before, "the old program still runs");
    still_attached(machine);

    let filter = machine.sh("nft list table inet viaduct");
    machine.sh("dpkg --remove viaduct");
    assert!(!machine.does("command -v viaduct"));
    assert_eq!(machine.sh("nft list table inet viaduct"), filter, "the filter went with the package");
    machine.sh("dpkg --install /root/viaduct.deb");
    machine.soon("the daemon is back", |machine| machine.property("ActiveState") == "active");
    assert_eq!(machine.sh("systemctl is-enabled viaduct viaduct-boot"), "enabled\nenabled\n");
    still_attached(machine);

    // An administrator's word holds over an upgrade.
    machine.sh("systemctl disable --now viaduct && dpkg --install /root/viaduct.deb");
    assert!(!machine.does("systemctl is-enabled viaduct") && !machine.does("systemctl is-active viaduct"));
    machine.sh("systemctl enable --now viaduct");
    still_attached(machine);
    traffic.lost_nothing();
    assert!(world.path("/var/lib/viaduct/applied.json").exists());
}

/// The same machine after a restart, without its uplink at first.
fn starts_again(world: &World) {
    for note in ["/before-network", "/before-guests"] {
        fs::remove_file(world.path(note)).unwrap();
    }
    let mut machine = world.boot();
    machine.soon("the daemon says what it lacks", |machine| {
        machine.does(
            "systemctl is-active viaduct | grep activating && viaduct status | grep 'has no device eth0'",
        )
    });
    let note = world.read("/before-network");
    assert!(
        note.contains("chain until_made") && note.contains("br-services"),
        "no filter before the network: {note}"
    );
    assert!(!note.contains("203.0.113.2/24"), "the network was there before: {note}");
    assert!(note.contains("table inet filter"), "the administrator's filter is not there: {note}");
    assert!(!world.path("/before-guests").exists(), "guests were started on a host that is not made");

    world.plug_in();
    machine.soon("guests are started", |_| world.path("/before-guests").exists());
    let note = world.read("/before-guests");
    assert!(
        note.contains("br-services") && note.contains("192.168.1.1/24"),
        "not made before guests: {note}"
    );
    assert!(!note.contains("until_made"), "still closed: {note}");
    assert!(note.contains("vnet97") && note.contains("vnif0097"), "no vnet before guests: {note}");
    let peers = machine.sh("viaduct peer list");
    assert!(peers.contains(PEER) && peers.contains("203.0.113.3:1798"), "{peers}");
    machine.soon("it is up", |machine| machine.sh("systemctl list-jobs").contains("No jobs"));
    assert_eq!(machine.sh("systemctl --failed --no-legend"), "");

    // What nobody had confirmed is gone, as are the guests, which are attached anew by whatever starts them.
    assert!(machine.sh("viaduct history").lines().last().unwrap().contains("return, unconfirmed"));
    let attached = |guest: &serde_json::Value| !guest["nics"][0]["attached"].is_null();
    let status = machine.status();
    assert!(!status["guests"].as_object().unwrap().values().any(attached), "{status}");
    machine.sh("ip netns add echo && viaduct attach echo --netns echo");
    serve(&machine.netns("echo"), 7);
    traffic().lost_nothing();
    assert!(!echoes(7001));

    machine.sh("dpkg --purge viaduct");
    assert!(!world.path("/var/lib/viaduct").exists());
    assert!(machine.sh("nft list tables").contains("inet viaduct"), "a purge takes nothing from the kernel");
    machine.shut_down();
}

/// From outside to the guest.
fn traffic() -> Traffic {
    let traffic = Traffic::start(OUTSIDE, "203.0.113.2:7000".parse().unwrap());
    thread::sleep(Duration::from_secs(1));
    traffic
}

/// Whether something answers on a port of the machine's, as seen from outside.
fn echoes(port: u16) -> bool {
    let to = format!("203.0.113.2:{port}").parse().unwrap();
    let connects = move || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok();
    machine::there(OUTSIDE, connects).join().unwrap()
}

#[track_caller]
fn still_attached(machine: &Machine<'_>) {
    let status = machine.sh("viaduct status");
    for place in ["netns echo", "process ", "tap"] {
        assert!(status.contains(place), "no guest is attached as {place}: {status}");
    }
    assert_eq!(machine.sh("viaduct plan"), "Nothing to do.\n");
    sh("ip netns exec outside ping -c 1 -W 5 203.0.113.2");
}
