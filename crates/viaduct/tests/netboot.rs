//! Virtual machines without a disk boot by the network, as the file says: firmware as it is, on taps, loads from servers
//! that nobody but they have heard of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::{CONFIG, Daemon, World, host};
use viaduct_vm::{Diskless, Firmware};

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
dhcp = true

[networks.public.boot]
server = ["192.0.2.7", "2001:db8:ffff::7"]

[networks.public.boot.files]
bios = "bios/first.ipxe"
efi-x86_64 = "efi/first.efi"
http-efi-x86_64 = ["http://192.0.2.7/http4.efi", "http://[2001:db8:ffff::7]/http6.efi"]
other = "not/this"

[guests.fresh]
[[guests.fresh.nics]]
network = "public"
addresses = ["198.51.100.119", "2001:db8:48:1::119"]

[guests.done]
[[guests.done.nics]]
network = "public"
addresses = ["198.51.100.118"]
boot = {}
"#;

const TFTP: &str = "/run/tftp.log";
const HTTP: &str = "/run/http.log";

/// The machine outside that has the files, by TFTP and by HTTP.
struct Files([Child; 2]);

impl Files {
    fn new(world: &World) -> Self {
        for line in [
            "ip -n outside address add 203.0.113.1/24 dev eth0",
            "ip -n outside address add fe80::1/64 dev eth0 nodad",
            "ip -n outside link set lo up",
            "ip -n outside address add 192.0.2.7/32 dev lo",
            "ip -n outside address add 2001:db8:ffff::7/128 dev lo",
            "ip -n outside route add 198.51.100.112/29 via 203.0.113.2",
            "ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad",
            "ip -n outside route add 2001:db8:48::/48 via 2001:db8:28::2",
        ] {
            world.sh(line);
        }
        world.write(
            "/run/tftp/bios/first.ipxe",
            "#!ipxe\necho From the file for BIOS at ${net0/ip}\nsleep 600\n",
        );
        world
            .write("/run/http/boot.ipxe", "#!ipxe\necho From the script for iPXE at ${net0/ip}\nsleep 600\n");
        // Nothing that could be run: the firmware goes on to what it tries next.
        for path in ["/run/tftp/efi/first.efi", "/run/http/http4.efi", "/run/http/http6.efi"] {
            world.write(path, "no program");
        }
        let inside = |line: &str, log: &str| {
            let log = std::fs::File::create(log).unwrap();
            Command::new("ip")
                .args(["netns", "exec", "outside"])
                .args(line.split(' '))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let tftp = "dnsmasq --conf-file=/dev/null --no-daemon --user=root --port=0 --enable-tftp --tftp-root=/run/tftp";
        Self([
            inside(tftp, TFTP),
            inside("python3 -u -m http.server --bind :: --directory /run/http 80", HTTP),
        ])
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn serving(world: &World) -> (Files, Daemon) {
    let files = Files::new(world);
    world.write(CONFIG, FILE);
    world.good("apply");
    (files, world.daemon())
}

fn attached(world: &World, guest: &str) -> String {
    let attached = world.good(&format!("attach {guest} --tap --json")).json();
    attached["qemu"].as_str().unwrap().to_owned()
}

/// Until one of the servers, or a machine's console, has shown it. An emulated processor takes its time.
#[track_caller]
fn shows(world: &World, machine: &Diskless, what: &str) {
    let all = || [world.read(TFTP), world.read(HTTP), machine.console()].join("\n");
    let begin = std::time::Instant::now();
    while !all().contains(what) {
        assert!(begin.elapsed() < Duration::from_secs(240), "not shown: {what}: {}; {}", all(), world.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_a_network_card_loads_is_what_the_file_says() {
    host(|world| {
        let (_files, _daemon) = serving(world);
        let network = attached(world, "fresh");
        // What is in QEMU's cards calls itself iPXE; without an entry for that it is a BIOS like any other.
        let machine = Diskless::boot(Firmware::Bios, &network).unwrap();
        shows(world, &machine, "From the file for BIOS at 198.51.100.119");
        shows(world, &machine, "sent /run/tftp/bios/first.ipxe to 198.51.100.119");
        drop(machine);

        // Another file for the next start, by an edit: for this NIC alone.
        let file = FILE.replace(
            "\"2001:db8:48:1::119\"]\n",
            "\"2001:db8:48:1::119\"]\nboot.files.ipxe = \"http://192.0.2.7/boot.ipxe\"\n",
        );
        assert_ne!(file, FILE);
        world.write(CONFIG, file);
        world.good("apply");
        let machine = Diskless::boot(Firmware::Bios, &network).unwrap();
        shows(world, &machine, "From the script for iPXE at 198.51.100.119");
        shows(world, &machine, "\"GET /boot.ipxe HTTP/1.1\" 200");
        assert_eq!(world.read(TFTP).matches("sent ").count(), 1, "{}", world.read(TFTP));
        drop(machine);

        // An installed one has an address, and nothing to boot.
        let machine = Diskless::boot(Firmware::Bios, &attached(world, "done")).unwrap();
        shows(world, &machine, "net0: 198.51.100.118/255.255.255.0");
        shows(world, &machine, "Nothing to boot");
        assert_eq!(world.read(TFTP).matches("sent ").count(), 1, "{}", world.read(TFTP));
    });
}

#[test]
fn firmware_loads_by_tftp_and_http_over_both_families_what_the_file_says() {
    host(|world| {
        let (_files, _daemon) = serving(world);
        let machine = Diskless::boot(Firmware::Efi, &attached(world, "fresh")).unwrap();
        for what in [
            "sent /run/tftp/efi/first.efi to 198.51.100.119",
            "sent /run/tftp/efi/first.efi to 2001:db8:48:1::119",
            "\"GET /http4.efi HTTP/1.1\" 200",
            "\"GET /http6.efi HTTP/1.1\" 200",
        ] {
            shows(world, &machine, what);
        }
        let asked = [world.read(TFTP), world.read(HTTP)].join("\n");
        assert!(!asked.contains("not/this") && !asked.contains("first.ipxe"), "{asked}");
    });
}
