//! A machine that boots: Debian with systemd in a container, in a network namespace with an uplink to the outside. All
//! of it goes with the test's thread, whatever becomes of the test.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use serde_json::Value;

/// How long anything may take that the machine does by itself, also where others need the processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// The namespace of the world outside of the machine.
pub(crate) const OUTSIDE: &str = "/run/netns/outside";

/// The disk of a machine, and what it is connected to.
pub(crate) struct World {
    root: PathBuf,
    cgroups: Vec<PathBuf>,
}

/// A machine that is up.
pub(crate) struct Machine<'a> {
    world: &'a World,
    container: Child,
    init: u32,
}

/// Does the test on a thread that has namespaces of its own.
pub(crate) fn world(test: impl FnOnce(&World) + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let ended = thread::spawn(move || {
        let world = World::new();
        // It outlives the thread, for a disk cannot be removed that is in use.
        sender.send((world.root.clone(), world.cgroups.clone())).unwrap();
        test(&world);
    })
    .join();
    if let Ok((root, cgroups)) = receiver.recv() {
        let _ = fs::remove_dir_all(root);
        cgroups.iter().for_each(|group| remove_cgroup(group));
    }
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn new() -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
        run(Command::new(repository().join("scripts/debian.sh")).arg(&base));
        let name = format!("viaduct-booted-{}", std::process::id());
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let world = Self { root, cgroups: cgroups(&name) };
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&base).arg(&world.root));
        // SAFETY: only this thread's namespaces and working directory are cut off from the others'; no file
        // descriptors are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .expect("this test makes namespaces and needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
        sh("mkdir /run/netns && ip netns add outside && ip -n outside link set lo up");
        world
    }

    /// A file of the machine's, while it is up or down.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Has a unit start with the machine, before it is up for the first time.
    pub(crate) fn enable(&self, unit: &str, target: &str) {
        let directory = self.path(&format!("/etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&directory).unwrap();
        symlink(format!("/etc/systemd/system/{unit}"), directory.join(unit)).unwrap();
    }

    /// Runs a command line on the machine's disk, while it is down.
    #[track_caller]
    pub(crate) fn inside(&self, line: &str) -> String {
        run(Command::new("chroot").arg(&self.root).args(["sh", "-c", line]))
    }

    /// Starts the machine with an empty network.
    pub(crate) fn boot(&self) -> Machine<'_> {
        sh("ip netns add machine");
        let log = fs::File::create(self.root.with_extension("log")).unwrap();
        let mut command = Command::new("sh");
        let enter = "for group; do case $group in /sys/*) mkdir -p $group && echo $$ >$group/cgroup.procs;; esac; done; \
                     export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network; \
                     exec setpriv --pdeathsig KILL systemd-nspawn --quiet --register=no --keep-unit --boot \
                     --network-namespace-path=/run/netns/machine --capability=all --bind=/dev/net/tun \
                     --system-call-filter='fanotify_init fanotify_mark' --console=pipe --machine=machine --directory=$0";
        command.args(["-c", enter]).arg(&self.root).args(&self.cgroups);
        let log_too = log.try_clone().unwrap();
        let container = command.stdin(Stdio::null()).stdout(log).stderr(log_too).spawn().unwrap();
        let mut machine = Machine { world: self, container, init: 0 };
        soon("its first process runs", || {
            machine.alive();
            machine.init = child_elsewhere(machine.container.id()).unwrap_or_default();
            machine.init != 0
        });
        machine
    }

    /// Plugs the machine's uplink in.
    pub(crate) fn plug_in(&self) {
        sh("ip link add eth0 netns machine type veth peer name eth0 netns outside && \
            ip -n outside address add 203.0.113.1/24 dev eth0 && ip -n outside link set eth0 up");
    }
}

impl Machine<'_> {
    #[track_caller]
    fn alive(&mut self) {
        if let Some(status) = self.container.try_wait().unwrap() {
            panic!("the machine ended ({status}): {}", self.console());
        }
    }

    fn console(&self) -> String {
        fs::read_to_string(self.world.root.with_extension("log")).unwrap_or_default()
    }

    /// Runs a command line on the machine that has to succeed.
    #[track_caller]
    pub(crate) fn sh(&self, line: &str) -> String {
        let (good, out, err) = self.run(line);
        assert!(good, "{line}: {out}{err}\n{}", self.journal());
        out
    }

    /// Whether it succeeds.
    pub(crate) fn does(&self, line: &str) -> bool {
        self.run(line).0
    }

    /// Whether it succeeded, and what it said.
    pub(crate) fn run(&self, line: &str) -> (bool, String, String) {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init.to_string(), "sh", "-c", line]);
        let output =
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// What its log has of our units.
    fn journal(&self) -> String {
        self.run("journalctl --no-pager --lines=60 -u viaduct -u viaduct-boot").1
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn soon(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            self.alive();
            assert!(begin.elapsed() < PATIENCE, "not so: {what}; {}", self.journal());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until its uplink has its address.
    #[track_caller]
    pub(crate) fn has_its_address(&mut self) {
        self.soon("the uplink has its address", |machine| {
            machine.sh("ip -brief address").contains("203.0.113.2/24")
        });
    }

    /// A property of the daemon's unit.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        self.sh(&format!("systemctl show --value --property={name} viaduct")).trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.sh("viaduct status --json")).unwrap()
    }

    /// A namespace of the machine's, as others reach it.
    pub(crate) fn netns(&self, name: &str) -> String {
        format!("/proc/{}/root/run/netns/{name}", self.init)
    }

    /// Shuts it down, as people do. Its network goes with it.
    pub(crate) fn shut_down(mut self) {
        self.run("systemctl poweroff");
        let begin = Instant::now();
        while self.container.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "it does not shut down: {}", self.console());
            thread::sleep(Duration::from_millis(50));
        }
        sh("ip netns del machine");
        // The kernel takes it down a while after its last process has ended.
        soon("its network is gone", || !sh("ip -n outside link").contains("eth0"));
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Its other processes go with its first one.
        if let Some(init) = i32::try_from(self.init).ok().and_then(Pid::from_raw)
            && matches!(self.container.try_wait(), Ok(None))
        {
            let _ = kill_process(init, Signal::KILL);
            thread::sleep(Duration::from_millis(500));
        }
        let _ = self.container.kill();
        let _ = self.container.wait();
        let _ = fs::remove_file(self.world.root.with_extension("log"));
    }
}

/// Does something in a network namespace.
pub(crate) fn there<T: Send + 'static>(
    netns: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let namespace = fs::File::open(netns).unwrap_or_else(|error| panic!("{netns}: {error}"));
    thread::spawn(move || {
        use std::os::fd::AsFd;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}

/// Runs a command line beside the machine, that has to succeed.
#[track_caller]
pub(crate) fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-c", line]))
}

#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "not so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A child of a process that is in another namespace of processes than we: the first one there.
fn child_elsewhere(parent: u32) -> Option<u32> {
    let own = fs::read_link("/proc/self/ns/pid").ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let ours = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        (ours && fs::read_link(entry.path().join("ns/pid")).ok()? != own).then_some(id)
    })
}

/// Groups of its own for the machine's processes, in whatever hierarchies this machine has for systemd.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let place =
        |prefix: &str| own.lines().find_map(|line| line.split_once(prefix)).map(|(_, path)| path.to_owned());
    let hierarchies = [
        ("/sys/fs/cgroup/systemd", place(":name=systemd:")),
        ("/sys/fs/cgroup/unified", place("0::")),
        ("/sys/fs/cgroup", place("0::")),
    ];
    let there = hierarchies.into_iter().filter(|(mount, _)| Path::new(mount).join("cgroup.procs").exists());
    there
        .filter_map(|(mount, path)| Some(Path::new(mount).join(path?.trim_start_matches('/')).join(name)))
        .collect()
}

fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
