//! What the unit's restrictions leave to the processes that answer guests and carry their frames.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    busybox, install,
    machine::{OUTSIDE, World, run, sh, soon, world},
    make,
};

/// A host with a guest in a vnet, which it shares with another.
fn configuration(
    host: &str,
    guest: &str,
    nic: &str,
    address: &str,
    (peer, endpoint, key): (&str, &str, &str),
) -> String {
    format!(
        "[host]\nname = \"{host}\"\n\n\
         [uplinks.wan]\ninterface = \"eth0\"\n\n\
         [peers.{peer}]\nendpoint = \"{endpoint}:1798\"\nkey = \"{key}\"\n\n\
         [vnets.red]\nid = \"97\"\npeers = [\"{peer}\"]\n\n\
         [networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.9.0.0/24\"]\n\n\
         {nic}[[guests.{guest}.nics]]\nnetwork = \"red\"\naddresses = [\"{address}\"]\n"
    )
}

/// Where the machine's guest is answered.
const SERVICES: &str = "[networks.services]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"192.168.1.0/24\"]\n\
                        dhcp = true\ndns = true\ndomain = \"lan\"\n\n\
                        [[guests.web.nics]]\nnetwork = \"services\"\naddresses = [\"192.168.1.7\"]\n";

/// The other host: the program that is tested, outside of the machine.
struct Other {
    directory: PathBuf,
    daemon: Option<Child>,
}

impl Other {
    fn new(world: &World) -> Self {
        let directory = world.path("/outside");
        fs::create_dir_all(&directory).unwrap();
        Self { directory, daemon: None }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={OUTSIDE}")).args(["setpriv", "--pdeathsig", "KILL"]);
        command.arg(env!("CARGO_BIN_EXE_viaduct")).arg("--config").arg(self.directory.join("viaduct.toml"));
        for option in ["--state-dir", "--run-dir"] {
            command.arg(option).arg(self.directory.join(&option[2..]));
        }
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> String {
        run(&mut self.command(words))
    }

    fn start(&mut self, configuration: &str) {
        fs::write(self.directory.join("viaduct.toml"), configuration).unwrap();
        self.run(&["apply"]);
        let mut daemon = self.command(&["daemon"]);
        self.daemon = Some(daemon.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        soon("the other host's daemon answers", || {
            self.command(&["status"]).output().unwrap().status.success()
        });
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("pkill").args(["-KILL", "-f", &self.directory.display().to_string()]).status();
    }
}

#[test]
fn guests_are_answered_and_vnets_carried_below_the_unit() {
    let busybox = busybox();
    world(move |world| {
        make(&world.path("/root/viaduct.deb"));
        install(world);
        let mut machine = world.boot();
        world.plug_in();
        machine.soon("it is up", |machine| machine.does("test -e /before-guests"));
        machine.has_its_address();
        let mut other = Other::new(world);
        let [here, there] = [machine.sh("viaduct identity"), other.run(&["identity"])];
        let peer = ("outside", "203.0.113.1", there.trim());
        world
            .write("/etc/viaduct/viaduct.toml", &configuration("machine", "web", SERVICES, "10.9.0.1", peer));
        machine.sh("viaduct apply && ip netns add web && viaduct attach web --netns web && viaduct attach web.1 --netns web");
        let peer = ("machine", "203.0.113.2", here.trim());
        other.start(&configuration("outside", "far", "", "10.9.0.2", peer));
        sh("ip netns add far");
        other.run(&["attach", "far", "--netns", "far"]);

        let web = machine.netns("web");
        is_answered(&web, &busybox);
        machine.soon("frames get to the other host", |machine| {
            machine.does("ip netns exec web ping -c 1 -W 1 10.9.0.2")
        });
        sh("ip netns exec far ping -c 3 -i 0.2 -W 5 10.9.0.1");
        // Nor were they started again and again meanwhile.
        let said = machine.sh("journalctl --no-pager -u viaduct");
        assert!(!said.contains("again"), "{said}");
        machine.sh("systemctl restart viaduct");
        is_answered(&web, &busybox);
        machine.sh("ip netns exec web ping -c 1 -W 5 10.9.0.2");
        machine.shut_down();
    });
}

/// By DHCP and DNS, as the guest in that namespace asks.
fn is_answered(netns: &str, busybox: &Path) {
    let busybox = busybox.display();
    sh(&format!("nsenter --net={netns} {busybox} udhcpc -i eth0 -n -q -t 10 -T 1 -s /bin/true"));
    let said = sh(&format!("nsenter --net={netns} dig +short +time=5 +tries=3 @192.168.1.1 web.lan"));
    assert_eq!(said, "192.168.1.7\n");
}
