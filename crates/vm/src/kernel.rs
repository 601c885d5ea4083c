//! Debian's kernel for cloud machines, from its package: fetched once, unpacked into the build's directory, not installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{VmError, cache};

/// The package that depends on the newest one.
const META: &str = "linux-image-cloud-amd64";

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    release: String,
    directory: PathBuf,
    /// Each module's file below the directory of modules, and those that it needs; by the module's name.
    modules: BTreeMap<String, (String, Vec<String>)>,
}

impl Kernel {
    /// The kernel that is kept, or else the newest of this Debian. Several processes may ask at once.
    ///
    /// # Errors
    /// When there is none and apt does not give one.
    pub fn debian() -> Result<Self, VmError> {
        let cache = cache();
        fs::create_dir_all(&cache).map_err(VmError::file("make", &cache))?;
        let lock = cache.join("lock");
        let lock = File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(VmError::file("lock", lock))?;
        let directory = cache.join("kernel");
        if !directory.exists() {
            fetch(&cache, &directory)?;
        }
        drop(lock);
        Self::unpacked(&directory)
    }

    fn unpacked(directory: &Path) -> Result<Self, VmError> {
        let modules = directory.join("lib/modules");
        let entry = fs::read_dir(&modules).and_then(|mut entries| entries.next().transpose());
        let entry = entry.map_err(VmError::file("read", &modules))?;
        let release = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
        let path = modules.join(&release).join("modules.dep");
        let text = fs::read_to_string(&path).map_err(VmError::file("read", &path))?;
        Ok(Self { release, directory: directory.to_owned(), modules: parse(&text) })
    }

    /// As `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel itself, for whoever boots it by other means than [`crate::Machine`].
    pub fn image(&self) -> PathBuf {
        self.directory.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The directory of its modules.
    pub(crate) fn module_directory(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }

    /// The files of modules and of all that they need, each after what it needs. A module that is built in needs
    /// none.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<&str>, VmError> {
        let path = self.module_directory().join("modules.builtin");
        let built_in = fs::read_to_string(&path).map_err(VmError::file("read", path))?;
        let built_in: BTreeSet<String> = built_in.lines().map(name).collect();
        let mut found: Vec<&str> = Vec::new();
        for wanted in wanted {
            let wanted = wanted.replace('-', "_");
            let Some((file, needs)) = self.modules.get(&wanted) else {
                if built_in.contains(&wanted) {
                    continue;
                }
                return Err(VmError::NoModule { release: self.release.clone(), module: wanted });
            };
            // depmod lists what is needed directly and indirectly, what has to be there first last.
            for file in needs.iter().rev().chain([file]) {
                if !found.contains(&file.as_str()) {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }
}

/// Unpacks beside the place first, so that what is in the place is whole.
fn fetch(cache: &Path, directory: &Path) -> Result<(), VmError> {
    let fresh = tempfile::tempdir_in(cache).map_err(VmError::file("make a directory in", cache))?;
    let package = match newest() {
        Ok(package) if download(fresh.path(), &package).is_ok() => package,
        // A fresh machine's lists are not there, and old lists name packages that are no longer kept.
        _ => {
            run(Command::new("apt-get").args(["-qq", "update"]), "apt")?;
            let package = newest()?;
            download(fresh.path(), &package)?;
            package
        }
    };
    let files = fs::read_dir(fresh.path()).map_err(VmError::file("read", fresh.path()))?;
    let file =
        files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let Some(file) = file else {
        return Err(VmError::Command {
            command: format!("apt-get download {package}"),
            output: "no file".to_owned(),
        });
    };
    let unpacked = fresh.path().join("kernel");
    run(Command::new("dpkg-deb").arg("-x").args([&file, &unpacked]), "dpkg")?;
    let release = package.trim_start_matches("linux-image-");
    run(Command::new("depmod").arg("-b").arg(&unpacked).arg(release), "kmod")?;
    fs::rename(&unpacked, directory).map_err(VmError::file("make", directory))
}

/// The package that holds the kernel.
fn newest() -> Result<String, VmError> {
    let shown = run(Command::new("apt-cache").args(["show", "--no-all-versions", META]), "apt");
    let Ok(shown) = shown else { return Err(VmError::NoKernel { package: META }) };
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: linux-image-"));
    let rest = depends.and_then(|depends| depends.split([' ', ',']).next());
    rest.map(|rest| format!("linux-image-{rest}")).ok_or(VmError::NoKernel { package: META })
}

fn download(into: &Path, package: &str) -> Result<(), VmError> {
    run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(into), "apt").map(drop)
}

/// What it says on standard output.
pub(crate) fn run(command: &mut Command, package: &'static str) -> Result<String, VmError> {
    let line = |command: &Command| {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let output = command.output().map_err(|source| VmError::Program {
        program: command.get_program().to_string_lossy().into_owned(),
        package,
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(VmError::Command {
        command: line(command),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Reads depmod's list.
fn parse(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            (name(file), (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        })
        .collect()
}

/// The name of a module, of its file's.
fn name(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("lib/modules/6.1");
        fs::create_dir_all(&modules).unwrap();
        let dep = "kernel/a.ko: kernel/b-b.ko kernel/c.ko\nkernel/b-b.ko: kernel/c.ko\nkernel/c.ko:\n";
        fs::write(modules.join("modules.dep"), dep).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/net/inside.ko\n").unwrap();
        let kernel = Kernel::unpacked(directory.path()).unwrap();

        let all = kernel.closure(&["b_b", "a", "inside"]).unwrap();
        assert_eq!(all, ["kernel/c.ko", "kernel/b-b.ko", "kernel/a.ko"]);
        assert!(kernel.closure(&["absent"]).unwrap_err().to_string().contains("6.1 has no module absent"));
    }
}
