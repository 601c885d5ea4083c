//! A machine that runs.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::Duration,
};

use crate::{Image, Kernel, VmError};

/// How long a machine may take to come up: some seconds, but much longer where many run on few processors.
const BOOT: Duration = Duration::from_secs(240);
/// How long a command may take, unless [`Machine::patience`] says otherwise.
const COMMAND: Duration = Duration::from_secs(60);

/// What a machine is made of, besides its kernel and its files.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of memory, in MiB.
    pub memory: u32,
    /// How many.
    pub processors: u32,
    /// The network namespace that QEMU runs in, by its path; else that of the calling thread.
    pub netns: Option<PathBuf>,
    /// More for QEMU's command line, such as its network interfaces.
    pub qemu: Vec<String>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; 128 and the signal's number, if one ended it.
    pub status: i32,
    /// What it wrote, to standard output and standard error.
    pub output: String,
}

/// A machine. It is killed when it is dropped; it ends by itself when this process does.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    control: BufReader<UnixStream>,
    shown: UnixStream,
    limit: Duration,
    directory: tempfile::TempDir,
}

impl Machine {
    /// Starts a machine and waits until it does commands.
    ///
    /// # Errors
    /// When QEMU does not start, or the machine does not come up.
    pub fn boot(kernel: &Kernel, image: &Image, setup: &Setup) -> Result<Self, VmError> {
        let directory = tempfile::Builder::new().prefix("viaduct-vm-").tempdir();
        let directory = directory.map_err(VmError::file("make a directory in", std::env::temp_dir()))?;
        let initramfs = directory.path().join("initramfs");
        image.write(&initramfs)?;
        let path = directory.path().join("qemu");
        let errors = fs::File::create(&path).map_err(VmError::file("make", path))?;
        let socket = || UnixStream::pair().map_err(VmError::file("make a socket in", directory.path()));
        let ((control, far_control), (shown, far_shown)) = (socket()?, socket()?);
        control
            .set_read_timeout(Some(BOOT))
            .map_err(VmError::file("wait at a socket in", directory.path()))?;

        let mut command = match &setup.netns {
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display())).arg(QEMU);
                command
            }
            None => Command::new(QEMU),
        };
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-m", &setup.memory.to_string(), "-smp", &setup.processors.to_string()])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off"])
            .arg("-serial")
            .arg(format!("file:{}", directory.path().join("console").display()))
            // The descriptors that every child is given anyway: no other child can inherit them by chance.
            .args(["-chardev", "socket,id=control,fd=0", "-chardev", "socket,id=shown,fd=1"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=control,nr=1"])
            .args(["-device", "virtserialport,chardev=shown,nr=2"])
            .args(&setup.qemu)
            .stdin(OwnedFd::from(far_control))
            .stdout(OwnedFd::from(far_shown))
            .stderr(errors);
        let qemu = command.spawn().map_err(|source| VmError::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            package: if setup.netns.is_some() { "util-linux" } else { "qemu-system-x86" },
            source,
        })?;
        // Our copies of the far ends go with it: the end of QEMU is the end of the connection.
        drop(command);
        let mut machine = Self { qemu, control: BufReader::new(control), shown, limit: BOOT, directory };
        machine.line()?;
        let _ = fs::remove_file(initramfs);
        machine.patience(COMMAND)?;
        Ok(machine)
    }

    /// How long a command may take.
    ///
    /// # Errors
    /// Only when the system sets no limits.
    pub fn patience(&mut self, limit: Duration) -> Result<(), VmError> {
        self.limit = limit;
        let set = self.control.get_ref().set_read_timeout(Some(limit));
        set.map_err(VmError::file("wait at a socket in", self.directory.path()))
    }

    /// Runs a command line of the shell. What it starts in the background runs on.
    ///
    /// # Errors
    /// When the machine has ended, or the command does not within the limit. That it failed is not an error.
    pub fn run(&mut self, command: &str) -> Result<Ran, VmError> {
        self.send("collect", command)?;
        let (status, size) = self.answer()?;
        let mut output = vec![0; size];
        let read = self.control.read_exact(&mut output);
        read.map_err(|error| self.lost(&error))?;
        Ok(Ran { status, output: String::from_utf8_lossy(&output).into_owned() })
    }

    /// Runs a command line of the shell, and passes on what it writes as it comes; its exit status.
    ///
    /// # Errors
    /// When the machine has ended, or the command does not within the limit.
    pub fn show(&mut self, command: &str, mut to: impl Write + Send) -> Result<i32, VmError> {
        let shown = self.shown.try_clone().map_err(VmError::file("read from", self.directory.path()))?;
        thread::scope(|scope| {
            scope.spawn(move || pass_on(shown, &mut to));
            self.send("show", command)?;
            let answer = self.answer();
            // What was written last may still be on its way: it is here when the machine has ended.
            let _ = self.control.get_ref().shutdown(std::net::Shutdown::Both);
            self.end();
            answer.map(|(status, _)| status)
        })
    }

    /// What the machine's console has shown so far: what the kernel says, and errors of the start.
    pub fn console(&self) -> String {
        self.text("console")
    }

    fn send(&mut self, kind: &str, command: &str) -> Result<(), VmError> {
        let mut text = String::new();
        let _ = write!(text, "{kind}\n{command}\n#end of command\n");
        self.control.get_mut().write_all(text.as_bytes()).map_err(|error| self.lost(&error))
    }

    fn answer(&mut self) -> Result<(i32, usize), VmError> {
        let line = self.line()?;
        let numbers = line.trim().split_once(' ').and_then(|(status, size)| {
            let (status, size): (i32, usize) = (status.parse().ok()?, size.parse().ok()?);
            // No test needs more than the machine has memory.
            (size < 1 << 30).then_some((status, size))
        });
        numbers.ok_or_else(|| self.lost(&io::ErrorKind::InvalidData.into()))
    }

    fn line(&mut self) -> Result<String, VmError> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => Ok(line),
            Ok(_) => Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &io::Error) -> VmError {
        let console = last_lines(&self.console());
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return VmError::Silent { limit: self.limit, console };
        }
        VmError::Ended { qemu: last_lines(&self.text("qemu")), console }
    }

    fn text(&self, file: &str) -> String {
        let bytes = fs::read(self.directory.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Lets it power off, which it does by itself, or kills it.
    fn end(&mut self) {
        for _ in 0..100 {
            if !matches!(self.qemu.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Until the other end is closed. When nobody takes it, the machine must not have to wait.
fn pass_on(mut from: UnixStream, to: &mut impl Write) {
    let mut buffer = [0; 8192];
    let mut taken = true;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        taken = taken && to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_ok();
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
