//! The machines of a lab as the kernel has them: a network namespace and a mount namespace each.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs::{self, File, Permissions},
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, mount, mount_bind},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    event::Handles,
    file::{Lab, Name, Role},
};

/// Where a host's Viaduct keeps what it remembers, on the host's own /run.
const STATE: &str = "/run/viaduct-state";
const RUN: &str = "/run/viaduct";
/// Where it is found by its name, with its settings; before whatever is installed on this machine, whose state is not a lab's.
const PROGRAMS: &str = "/run/viaduct-program";

/// All machines of a lab.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) machines: BTreeMap<Name, Place>,
    /// The namespace that the switches live in: the lab's own.
    pub(crate) scenery: OwnedFd,
    dir: PathBuf,
}

/// One machine's namespaces.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) net: OwnedFd,
    pub(crate) mounts: OwnedFd,
    /// On a host: how `viaduct` is called there, which is what its name in `PATH` does.
    pub(crate) viaduct: Vec<String>,
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// None: it did not end in time and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// Standard output and standard error, in the order of writing.
    pub(crate) output: String,
}

impl World {
    /// Makes the namespaces. The calling process is the lab's own init, with mounts of its own and a /run/netns where
    /// `ip` finds the machines by name.
    pub(crate) fn new(lab: &Lab, binary: &Path) -> io::Result<Self> {
        let mut nets = BTreeMap::new();
        for (name, machine) in &lab.machines {
            let net = in_thread(|| new_network(machine.forwarding))?;
            bind_namespace(&net, name)?;
            nets.insert(name.clone(), net);
        }
        let mut machines = BTreeMap::new();
        for (name, machine) in &lab.machines {
            let guests: Vec<(&Name, BorrowedFd<'_>)> =
                lab.guests_of(name).map(|(guest, _)| (guest, nets[guest].as_fd())).collect();
            let config = match &machine.role {
                Role::Host { config } => Some(config.as_path()),
                Role::Outside | Role::Guest { .. } => None,
            };
            let viaduct = config.map_or_else(Vec::new, |config| {
                let call = [
                    binary,
                    "--config".as_ref(),
                    config,
                    "--state-dir".as_ref(),
                    STATE.as_ref(),
                    "--run-dir".as_ref(),
                    RUN.as_ref(),
                ];
                call.map(|word: &Path| word.to_string_lossy().into_owned()).to_vec()
            });
            let host = config.map(|config| (config, &viaduct[..]));
            let mounts = in_thread(|| new_mounts(nets[name].as_fd(), &guests, host))?;
            machines.insert(name.clone(), (mounts, viaduct));
        }
        let machines = machines
            .into_iter()
            .zip(nets.into_values())
            .map(|((name, (mounts, viaduct)), net)| (name, Place { net, mounts, viaduct }))
            .collect();
        let scenery = File::open("/proc/thread-self/ns/net")?.into();
        Ok(Self { machines, scenery, dir: lab.dir.clone() })
    }

    /// Runs a line of `sh` on a machine, where `viaduct` is the host's own.
    pub(crate) fn shell(&self, machine: &Name, line: &str, timeout: Duration) -> io::Result<Finished> {
        let mut command = self.machines[machine].command("sh", &self.dir)?;
        command.arg("-c").arg(line);
        finish(&mut command, "", timeout)
    }

    /// Runs the host's `viaduct`.
    pub(crate) fn viaduct(&self, host: &Name, arguments: &[&str], timeout: Duration) -> io::Result<Finished> {
        let place = &self.machines[host];
        let mut command = place.command(&place.viaduct[0], &self.dir)?;
        command.args(&place.viaduct[1..]).args(arguments);
        finish(&mut command, "", timeout)
    }
}

impl Place {
    /// A command that will run in the machine's namespaces.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, dir: &Path) -> io::Result<Command> {
        let dir = CString::new(dir.as_os_str().as_bytes())?;
        let (net, mounts) = (self.net.as_raw_fd(), self.mounts.as_raw_fd());
        let mut command = Command::new(program);
        if !self.viaduct.is_empty() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(PathBuf::from(PROGRAMS)).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all).map_err(io::Error::other)?);
        }
        // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock is taken; the
        // numbers are those of open files, which the child has, too, until exec.
        unsafe {
            command.pre_exec(move || {
                let (net, mounts) = (BorrowedFd::borrow_raw(net), BorrowedFd::borrow_raw(mounts));
                move_into_link_name_space(net, Some(LinkNameSpaceType::Network))?;
                move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount))?;
                // The new mount namespace's root is the working directory now.
                rustix::process::chdir(dir.as_c_str())?;
                Ok(())
            });
        }
        Ok(command)
    }
}

/// Runs the closure in a thread that has moved into the network namespace; sockets it makes stay there.
pub(crate) fn inside<T: Send>(
    net: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    in_thread(|| {
        move_into_link_name_space(net, Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// Runs a command to its end, or kills it.
pub(crate) fn finish(command: &mut Command, input: &str, timeout: Duration) -> io::Result<Finished> {
    // Files instead of pipes: a process left in the background holds a pipe open, and nobody would see its end.
    let mut output = memory_file()?;
    let mut stdin = memory_file()?;
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut child = command.stdin(stdin).stdout(output.try_clone()?).stderr(output.try_clone()?).spawn()?;
    let deadline = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    Ok(Finished { status, output: String::from_utf8_lossy(&bytes).trim_end().to_owned() })
}

/// Runs iproute2 in a network namespace, one line per command. Every Debian machine has it, and what it is used for
/// here, the scenery around the hosts, is not what is tried out.
pub(crate) fn ip(net: BorrowedFd<'_>, lines: &str) -> io::Result<()> {
    batch("ip", net, lines)
}

/// The same with another of iproute2's programs.
pub(crate) fn batch(program: &str, net: BorrowedFd<'_>, lines: &str) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(["-batch", "-"]);
    let finished = finish(enter(&mut command, net), lines, Duration::from_secs(30))?;
    if finished.status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    Err(io::Error::other(format!("{program}: {}\nin\n{lines}", finished.output)))
}

/// Lets the command run in a network namespace, with the caller's mounts.
pub(crate) fn enter<'c>(command: &'c mut Command, net: BorrowedFd<'_>) -> &'c mut Command {
    let net = net.as_raw_fd();
    // SAFETY: as in `Place::command`.
    unsafe {
        command.stdin(Stdio::null()).pre_exec(move || {
            move_into_link_name_space(BorrowedFd::borrow_raw(net), Some(LinkNameSpaceType::Network))?;
            Ok(())
        })
    }
}

/// Namespaces belong to threads: a thread that ends takes its own with it, and the caller keeps what it had.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

fn new_network(forwarding: bool) -> io::Result<OwnedFd> {
    // SAFETY: no file descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    // Nobody here has a duplicate address, and looking for one takes a second per interface.
    sysctl("ipv6/conf/all/accept_dad", "0")?;
    sysctl("ipv6/conf/default/accept_dad", "0")?;
    if forwarding {
        sysctl("ipv4/ip_forward", "1")?;
        sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Sets one of the calling thread's network namespace.
pub(crate) fn sysctl(key: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{key}"), value) {
        // A kernel without IPv6.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn bind_namespace(net: &OwnedFd, name: &Name) -> io::Result<()> {
    fs::create_dir_all("/run/netns")?;
    let path = format!("/run/netns/{name}");
    File::create(&path)?;
    Ok(mount_bind(format!("/proc/self/fd/{}", net.as_raw_fd()), path)?)
}

/// A mount namespace whose /sys and /proc/sys/net are the network namespace's, and whose /run is empty but for the
/// named namespaces of the guests that run here.
fn new_mounts(
    net: BorrowedFd<'_>,
    guests: &[(&Name, BorrowedFd<'_>)],
    host: Option<(&Path, &[String])>,
) -> io::Result<OwnedFd> {
    move_into_link_name_space(net, Some(LinkNameSpaceType::Network))?;
    // SAFETY: no file descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)?;
    fs::create_dir_all("/run/netns")?;
    for (name, net) in guests {
        let path = format!("/run/netns/{name}");
        File::create(&path)?;
        mount_bind(format!("/proc/self/fd/{}", net.as_raw_fd()), path)?;
    }
    if let Some((config, viaduct)) = host {
        let call: Vec<String> = viaduct.iter().map(|word| quoted(word)).collect();
        let program = Path::new(PROGRAMS).join("viaduct");
        fs::create_dir(PROGRAMS)?;
        fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", call.join(" ")))?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        // What is saved in the lab stays in the lab: a private copy covers the directory of the configuration.
        let dir = config.parent().unwrap_or(config);
        copy_dir(dir, Path::new("/run/viaduct-config"))?;
        mount_bind("/run/viaduct-config", dir)?;
    }
    Ok(File::open("/proc/thread-self/ns/mnt")?.into())
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
        let to = to.join(entry.file_name().unwrap_or_default());
        if kind.is_dir() {
            copy_dir(&entry, &to)?;
        } else if kind.is_file() {
            fs::copy(&entry, &to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&entry)?, &to)?;
        }
    }
    Ok(())
}

fn memory_file() -> io::Result<File> {
    let fd = rustix::fs::memfd_create("lab", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a command on a machine of another process's lab, by the numbers of its init's open files.
pub(crate) fn exec<S: AsRef<OsStr>>(
    pid: u32,
    handles: &Handles,
    dir: &Path,
    command: &[S],
) -> io::Result<ExitStatus> {
    let open = |file: String| File::open(format!("/proc/{pid}/{file}")).map(OwnedFd::from);
    let place = Place {
        net: open(format!("fd/{}", handles.net))?,
        mounts: open(format!("fd/{}", handles.mounts))?,
        viaduct: handles.viaduct.clone(),
    };
    // From here on, children of this process are the lab's.
    move_into_link_name_space(open("ns/pid".to_owned())?.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    move_into_link_name_space(
        open("ns/ipc".to_owned())?.as_fd(),
        Some(LinkNameSpaceType::InterProcessCommunication),
    )?;
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    place.command(program, dir)?.args(arguments).status()
}
