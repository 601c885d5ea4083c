//! Labs that stay up: a file each, locked by the lab itself for as long as it lives.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use serde::{Deserialize, Serialize};

use crate::{LabError, event::Handles, file::Name};

const DIR: &str = "/run/viaduct-lab";

/// What others have to know of a lab that is up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) dir: PathBuf,
    /// Its init.
    pub(crate) pid: u32,
    pub(crate) machines: BTreeMap<Name, Handles>,
}

/// The file of a lab that is coming up.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// Takes the name. The lab's process inherits the file, and with it the lock.
    pub(crate) fn new(name: &str) -> Result<Self, LabError> {
        let path = path(name);
        let fail = |source| LabError::Record { path: path.clone(), source };
        fs::create_dir_all(DIR).map_err(fail)?;
        loop {
            let file = open(&path, true).map_err(fail)?;
            if !lock(&file) {
                return Err(LabError::AlreadyUp { name: name.to_owned() });
            }
            // Another may have removed the file between opening and locking; the lock would then guard nothing.
            if same_file(&file, &path) {
                return Ok(Self { file, path });
            }
        }
    }

    /// The lab stands.
    pub(crate) fn write(&mut self, record: &Record) -> Result<(), LabError> {
        let text = serde_json::to_vec(record).unwrap_or_default();
        let written =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(&text));
        written.map_err(|source| LabError::Record { path: self.path.clone(), source })
    }

    /// There is no lab after all.
    pub(crate) fn withdraw(self) {
        remove(&self.path);
    }
}

/// The names of the labs that are up.
pub(crate) fn all() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIR) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .filter(|name| read(name).is_some())
        .collect();
    names.sort();
    names
}

/// The one of that name, or the only one.
pub(crate) fn find(name: Option<&str>) -> Result<(String, Record), LabError> {
    let up = all();
    let name = match (name, &up[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, []) => return Err(LabError::NotUp { name: String::new(), up }),
        (None, _) => return Err(LabError::Several(up)),
    };
    match read(name) {
        Some(record) => Ok((name.to_owned(), record)),
        None => Err(LabError::NotUp { name: name.to_owned(), up }),
    }
}

/// Ends a lab and waits for its end.
pub(crate) fn end(name: &str, record: &Record) -> Result<(), LabError> {
    let path = path(name);
    let fail = |source| LabError::Record { path: path.clone(), source };
    if let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) {
        // The lock was held a moment ago by this very process, so the number is still its own.
        let _ = kill_process(pid, Signal::KILL);
    }
    let file = open(&path, false).map_err(fail)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !lock(&file) {
        if Instant::now() > deadline {
            return Err(fail(io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    remove(&path);
    Ok(())
}

fn read(name: &str) -> Option<Record> {
    if name.contains('/') {
        // A lab is called like a directory; anything else would lead out of ours.
        return None;
    }
    let path = path(name);
    let mut file = open(&path, false).ok()?;
    if lock(&file) {
        // Nobody holds it: the lab was killed, or the machine restarted.
        remove(&path);
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(format!("{name}.json"))
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)
}

fn lock(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    // The last one closes the door; with others inside it stays open.
    let _ = fs::remove_dir(DIR);
}
