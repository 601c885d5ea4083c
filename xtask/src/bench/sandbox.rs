//! Where measurements run: namespaces that end with the process in them, so that nothing stays behind when it fails or
//! is interrupted.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

/// The program's subcommand that is run inside.
pub(crate) const INSIDE: &str = "bench-inside";

/// Runs `xtask bench-inside` in namespaces of its own.
///
/// Its parent there is a shell as init: an init ignores an interrupt, the program does not, and when the shell ends, the
/// kernel ends all processes with it, and then all that they made. Its standard input is a pipe of ours: when we
/// are killed, it closes.
pub(super) fn enter(xtask: &Path, program: &Path, words: &[String]) -> Result<(), String> {
    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", r#""$0" "$@"; exit $?"#])
        .arg(xtask)
        .arg(INSIDE)
        .arg(program)
        .args(words)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run unshare: {error}"))?;
    let alive = child.stdin.take();
    let status = child.wait().map_err(|error| format!("unshare: {error}"))?;
    drop(alive);
    if status.success() { Ok(()) } else { Err("measuring failed".to_owned()) }
}

/// The inside.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// The `viaduct` that is measured.
    pub(super) program: PathBuf,
    /// This program.
    pub(super) xtask: PathBuf,
}

/// Where files are kept: in memory, as all of /run inside.
const FILES: &str = "/run/bench";

impl Sandbox {
    /// Makes an empty /run, where named namespaces live, and goes when the outside goes.
    pub(super) fn prepare(program: PathBuf) -> Result<Self, String> {
        let xtask = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
        let sandbox = Self { program, xtask };
        sandbox.here("mount", &["-t", "tmpfs", "none", "/run"])?;
        fs::create_dir_all(FILES).map_err(|error| format!("{FILES}: {error}"))?;
        sandbox.here("ip", &["link", "set", "lo", "up"])?;
        thread::spawn(|| {
            let mut nothing = [0];
            // Nothing is ever written: this returns when the other end is gone.
            let _ = std::io::stdin().read(&mut nothing);
            std::process::exit(1);
        });
        Ok(sandbox)
    }

    /// A file's path.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        Path::new(FILES).join(name)
    }

    /// Writes a file, and says its path.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// Runs a command in the sandbox, but in none of its machines.
    pub(super) fn here(&self, command: &str, arguments: &[&str]) -> Result<String, String> {
        let mut run = Command::new(command);
        run.args(arguments);
        output(&mut run)
    }

    /// Makes a machine.
    pub(super) fn machine(&self, name: &str) -> Result<Machine, String> {
        self.here("ip", &["netns", "add", name])?;
        let machine = Machine { name: name.to_owned() };
        machine.run("ip link set lo up")?;
        Ok(machine)
    }
}

/// A network namespace; what belongs to it goes with it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
}

impl Machine {
    /// A command, to be run there.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// The same for what is measured itself: with less before it, and in the process that was started.
    pub(super) fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// Runs a command whose words are divided by spaces; says what it said.
    pub(super) fn run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        output(command.args(words))
    }

    /// Runs a command that reads a text.
    pub(super) fn feed(&self, line: &str, text: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        let mut child = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{line}: {error}"))?;
        let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
        let status = child.wait().map_err(|error| format!("{line}: {error}"))?;
        match written {
            Ok(()) if status.success() => Ok(()),
            Ok(()) => Err(format!("`{line}` failed ({status})")),
            Err(error) => Err(format!("{line}: {error}")),
        }
    }

    /// Lets the machine route.
    pub(super) fn forward(&self) -> Result<(), String> {
        self.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // At the latest it goes with the sandbox.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
pub(super) struct Service(Child);

impl Service {
    /// Starts it, and waits for its first line, which says that it is ready.
    pub(super) fn start(command: &mut Command) -> Result<Self, String> {
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut ready = [0];
        let said = child.stdout.as_mut().map(|output| output.read_exact(&mut ready));
        let service = Self(child);
        match said {
            Some(Ok(())) => Ok(service),
            Some(Err(_)) | None => Err(format!("{command:?} did not start")),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command prints; an error has what it complained about.
pub(super) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} failed ({}): {}", output.status, complaint.trim()))
}
