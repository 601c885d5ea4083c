//! What a machine finds when it starts.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Kernel, VmError, archive::Archive};

/// A file system in memory: busybox, an init that does commands, and what is added.
#[derive(Clone, Debug)]
pub struct Image {
    kernel: Kernel,
    archive: Archive,
    /// Modules, in the order in which they are loaded.
    modules: Vec<String>,
}

impl Image {
    /// Busybox and nothing else.
    ///
    /// # Errors
    /// When there is no busybox.
    pub fn new(kernel: &Kernel) -> Result<Self, VmError> {
        let mut image = Self { kernel: kernel.clone(), archive: Archive::default(), modules: Vec::new() };
        for directory in [
            "/proc",
            "/sys",
            "/dev",
            "/run",
            "/tmp",
            "/etc",
            "/root",
            "/mnt",
            "/usr/bin",
            "/usr/sbin",
            "/var",
        ] {
            image.archive.directory(Path::new(directory));
        }
        let busybox = find("busybox").ok_or_else(|| VmError::Program {
            program: "busybox".to_owned(),
            package: "busybox",
            source: io::ErrorKind::NotFound.into(),
        })?;
        image.program_at(&busybox, Path::new("/bin/busybox"))?;
        image.archive.link(Path::new("/bin/sh"), "busybox");
        image.text("/init", include_str!("init.sh"), 0o755);
        image.text(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
            0o644,
        );
        image.text("/etc/udhcpc/default.script", include_str!("udhcpc.sh"), 0o755);
        image.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);
        image.modules(&["virtio_pci", "virtio_console"])?;
        Ok(image)
    }

    /// Adds modules of the kernel with those that they need; they are loaded before anything is run.
    ///
    /// # Errors
    /// When the kernel has none of that name.
    pub fn modules(&mut self, names: &[&str]) -> Result<(), VmError> {
        for file in self.kernel.closure(names)? {
            if self.modules.iter().any(|known| known == file) {
                continue;
            }
            let path = self.kernel.module_directory().join(file);
            let content = fs::read(&path).map_err(VmError::file("read", &path))?;
            self.archive.file(&Path::new("/lib/modules").join(file), content, 0o644);
            self.modules.push(file.to_owned());
        }
        Ok(())
    }

    /// Adds a program of this machine under its own path, with the libraries it needs; it is found where `$PATH` leads,
    /// if it has no slash.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn program(&mut self, name: &str) -> Result<(), VmError> {
        let path = if name.contains('/') { Some(PathBuf::from(name)) } else { find(name) };
        let Some(path) = path else {
            return Err(VmError::file("find the program", name)(io::ErrorKind::NotFound.into()));
        };
        self.program_at(&path, &path)
    }

    /// The same under another path. Symbols for debuggers, which are most of a test program, stay behind.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn program_at(&mut self, from: &Path, to: &Path) -> Result<(), VmError> {
        let content = stripped(from).or_else(|_| fs::read(from)).map_err(VmError::file("read", from))?;
        self.archive.file(to, content, 0o755);
        for library in libraries(from)? {
            if !self.archive.has(&library) {
                let content = fs::read(&library).map_err(VmError::file("read", &library))?;
                self.archive.file(&library, content, 0o755);
            }
        }
        Ok(())
    }

    /// Adds a file, or a directory with all that is in it, under its own path.
    ///
    /// # Errors
    /// When something of it cannot be read.
    pub fn copy(&mut self, path: &Path) -> Result<(), VmError> {
        let error = || VmError::file("read", path);
        let metadata = fs::metadata(path).map_err(error())?;
        if metadata.is_dir() {
            self.archive.directory(path);
            for entry in fs::read_dir(path).map_err(error())? {
                self.copy(&entry.map_err(error())?.path())?;
            }
        } else if metadata.is_file() {
            let content = fs::read(path).map_err(error())?;
            self.archive.file(path, content, metadata.permissions().mode() & 0o777);
        }
        Ok(())
    }

    /// Adds a file with this text.
    pub fn text(&mut self, path: &str, text: &str, mode: u32) {
        self.archive.file(Path::new(path), text.as_bytes().to_vec(), mode);
    }

    /// Writes it as the kernel takes it at its start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), VmError> {
        let mut archive = self.archive.clone();
        let list: String = self.modules.iter().map(|file| format!("/lib/modules/{file}\n")).collect();
        archive.file(Path::new("/etc/modules"), list.into_bytes(), 0o644);
        let write = || {
            let mut file = io::BufWriter::new(fs::File::create(path)?);
            archive.write(&mut file)?;
            io::Write::flush(&mut file)
        };
        write().map_err(VmError::file("write", path))
    }
}

/// Where `$PATH` leads, or where Debian has what only root runs.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

fn stripped(program: &Path) -> io::Result<Vec<u8>> {
    let to = tempfile::NamedTempFile::new()?;
    let output = Command::new("objcopy").arg("--strip-debug").args([program, to.path()]).output()?;
    if output.status.success() { fs::read(to.path()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// What the dynamic linker would load; nothing for a static program or a script.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, VmError> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|source| VmError::Program {
        program: "ldd".to_owned(),
        package: "libc-bin",
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
