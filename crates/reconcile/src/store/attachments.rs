//! What is attached: a file with all of it, and after that a line for each change since, until it is written anew. What
//! one change writes does not depend on how much is attached.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use viaduct_plan::{Attachments, Target};
use viaduct_types::NicId;

use super::{Store, StoreError, damaged, io_error, write};

/// A file that is smaller is written anew at each change: that costs no more.
const SMALL: u64 = 4096;
/// The kernel writes pages one after the other, and a process may be killed between two.
const PAGE: usize = 4096;
/// A file is written anew when it is larger than this, and than so much for each NIC. What is written anew is
/// less than half of it, so that as many changes pass until it is again.
const LARGE: usize = 16 * 1024;
const LARGE_EACH: usize = 512;

impl Store {
    /// The attachments.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn attachments(&self) -> Result<Attachments, StoreError> {
        let path = self.attachments_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attachments::new()),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let damaged = |reason| {
            let way_out = "Move it away, and attach the guests again: until a guest is, the next change takes its link away";
            damaged(&path, reason, way_out)
        };
        let mut values =
            serde_json::Deserializer::from_slice(&bytes).into_iter::<BTreeMap<NicId, Option<Target>>>();
        let first = values.next().ok_or_else(|| damaged("nothing is in it".to_owned()))?;
        let mut attachments = Attachments::new();
        for changes in std::iter::once(first).chain(values) {
            for (nic, target) in changes.map_err(|error| damaged(error.to_string()))? {
                match target {
                    Some(target) => attachments.insert(nic, target),
                    None => attachments.remove(&nic),
                };
            }
        }
        Ok(attachments)
    }

    /// Remembers the attachments.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_attachments(&self, attachments: &Attachments) -> Result<(), StoreError> {
        write(&self.attachments_path(), attachments)
    }

    /// Remembers the attachments, which differ by so much from what is remembered. Says whether all of them were written.
    ///
    /// # Errors
    /// When the file cannot be written; then it says what it said before.
    pub fn change_attachments(
        &self,
        attachments: &Attachments,
        changes: &BTreeMap<&NicId, Option<&Target>>,
    ) -> Result<bool, StoreError> {
        let path = self.attachments_path();
        let size = fs::metadata(&path).map_or(0, |data| data.len());
        let large = LARGE.max(attachments.len().saturating_mul(LARGE_EACH));
        let line = serde_json::to_vec(changes).map_err(|e| io_error("write", &path, e.into()))?;
        // With the end of the line it is to fit into one page.
        if size < SMALL || size > large as u64 || line.len() >= PAGE {
            return self.set_attachments(attachments).map(|()| true);
        }
        append(&path, size, &line).map_err(|source| io_error("write", &path, source))?;
        Ok(false)
    }

    /// The file with the attachments.
    pub fn attachments_path(&self) -> PathBuf {
        self.run.join("attachments.json")
    }
}

/// Adds a line to a file of this size, or leaves it as it is. Whoever is killed meanwhile has added all of it or nothing
/// that counts: the line does not reach over the end of a page, what does is space.
fn append(path: &Path, size: u64, line: &[u8]) -> io::Result<()> {
    let used = usize::try_from(size % PAGE as u64).unwrap_or(0);
    let space = if used + line.len() + 1 > PAGE { PAGE - used } else { 0 };
    let mut text = vec![b'\n'; space];
    text.extend_from_slice(line);
    text.push(b'\n');
    let mut file = File::options().append(true).open(path)?;
    let added = file.write_all(&text).and_then(|()| file.sync_data());
    added.inspect_err(|_| {
        // That makes a file smaller takes no space.
        let _ = file.set_len(size);
    })
}
