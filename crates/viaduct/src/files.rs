//! The configuration's files.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use viaduct_model::Source;

use crate::failure::Failure;

/// Far beyond what a host's configuration takes; a device or a wrong file must not fill the memory.
const LARGEST: u64 = 64 << 20;

/// Reads a file, or a directory's viaduct.toml and conf.d/*.toml in name order.
pub(crate) fn read(path: &Path) -> Result<Vec<Source>, Failure> {
    read_all(&[path.to_owned()])
}

/// Keeps others from saving changes of the same files at the same time.
pub(crate) fn lock(path: &Path) -> Result<File, Failure> {
    let go = || -> io::Result<File> {
        // A file is replaced when it is saved; its directory stays the same.
        let parent = || path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let place = if path.is_dir() { path } else { parent().unwrap_or(Path::new(".")) };
        let directory = File::open(place)?;
        directory.lock()?;
        Ok(directory)
    };
    go().map_err(|error| Failure::failed(format!("cannot lock {}: {error}", path.display())))
}

/// Reads several files or directories as one configuration; whatever cannot be read is named, all of it.
pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    match source(&file) {
                        Ok(source) => sources.push(source),
                        Err(line) => unreadable.push(line),
                    }
                }
            }
            Err(line) => unreadable.push(line),
        }
    }
    if unreadable.is_empty() { Ok(sources) } else { Err(Failure::unreadable(unreadable)) }
}

/// Reads files, and what is below directories, in name order; whatever cannot be read is named, all of it.
pub(crate) fn read_everything(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        everything(path, 0, &mut sources, &mut unreadable);
    }
    if unreadable.is_empty() { Ok(sources) } else { Err(Failure::unreadable(unreadable)) }
}

fn everything(path: &Path, depth: usize, sources: &mut Vec<Source>, failed: &mut Vec<String>) {
    /// Nobody's configuration is deeper; links may lead in circles.
    const DEEPEST: usize = 16;
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() && depth < DEEPEST => match fs::read_dir(path) {
            Ok(entries) => {
                let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                below.sort();
                below.iter().for_each(|path| everything(path, depth + 1, sources, failed));
            }
            Err(error) => failed.push(unreadable(path, &error)),
        },
        Ok(metadata) if metadata.is_file() => match source(path) {
            Ok(source) => sources.push(source),
            Err(line) => failed.push(line),
        },
        Ok(_) => failed.push(format!("{} is neither a file nor a directory", path.display())),
        Err(error) => failed.push(unreadable(path, &error)),
    }
}

/// The files of a configuration.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let is_directory = fs::metadata(path).map_err(|e| unreadable(path, &e))?.is_dir();
    if !is_directory {
        return Ok(vec![path.to_owned()]);
    }
    let main = path.join("viaduct.toml");
    let mut files = list(&path.join("conf.d"))?;
    // Also one that cannot be read, so that it is named.
    if main.symlink_metadata().is_ok() {
        files.insert(0, main);
    } else if files.is_empty() {
        files = list(path)?;
    }
    if files.is_empty() {
        return Err(format!(
            "there is no configuration: write {}, or name another place with --config",
            path.join("viaduct.toml").display()
        ));
    }
    Ok(files)
}

/// The *.toml files of a directory, in name order; none when there is no such directory.
fn list(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(directory, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(directory, &e))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file; or says in a line why not.
fn source(path: &Path) -> Result<Source, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    let length = read.map_err(|e| unreadable(path, &e))?;
    if length as u64 > LARGEST {
        return Err(format!(
            "{} is larger than {} MiB: is it the right file?",
            path.display(),
            LARGEST >> 20
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name: path.display().to_string(), text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count() + 1;
            Err(format!("{}:{line}: this is not UTF-8 text; save the file as UTF-8", path.display()))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let hint = if error.kind() == io::ErrorKind::NotFound {
        "; write it, or name another place with --config"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "; this user may not read it"
    } else {
        ""
    };
    format!("cannot read {}: {error}{hint}", path.display())
}

/// A changed file, written beside the one that it is to replace. It goes unless it takes that one's place.
pub(crate) struct Staged {
    path: PathBuf,
    beside: PathBuf,
}

impl Staged {
    /// Writes a changed file beside the old one, with its owner and permissions.
    pub(crate) fn new(source: &Source) -> Result<Self, Failure> {
        let unwritable = |path: &Path, error: &io::Error| {
            Failure::failed(format!("cannot write {}: {error}", path.display())).with("Nothing was changed.")
        };
        // A link stays a link: what it points to is replaced.
        let path = fs::canonicalize(&source.name).map_err(|e| unwritable(Path::new(&source.name), &e))?;
        let staged = Self { beside: path.with_extension("toml.new"), path };
        staged.write(&source.text).map_err(|error| unwritable(&staged.path, &error))?;
        Ok(staged)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let old = fs::metadata(&self.path)?;
        // One that a killed run left behind may be anything.
        match fs::remove_file(&self.beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = File::create_new(&self.beside)?;
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(old.mode()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Takes the old one's place.
    pub(crate) fn replace(self) -> Result<PathBuf, Failure> {
        let moved = fs::rename(&self.beside, &self.path);
        moved.map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", self.path.display()))
                .with("The change itself was made; it lasts until the next `viaduct apply`.")
        })?;
        Ok(self.path.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already when it took the old one's place.
        let _ = fs::remove_file(&self.beside);
    }
}
