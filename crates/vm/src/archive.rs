//! An archive of files as the kernel unpacks it at its start: cpio's "newc" format, see Linux'
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Paths, with what they are. Directories above a file come into being with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    content: Vec<u8>,
}

impl Archive {
    pub(crate) fn file(&mut self, path: &Path, content: Vec<u8>, mode: u32) {
        self.add(path, Entry { mode: FILE | mode, content });
    }

    pub(crate) fn link(&mut self, path: &Path, target: &str) {
        self.add(path, Entry { mode: LINK | 0o777, content: target.as_bytes().to_vec() });
    }

    pub(crate) fn directory(&mut self, path: &Path) {
        if path.parent().is_some() && !self.entries.contains_key(path) {
            self.add(path, Entry { mode: DIRECTORY | 0o755, content: Vec::new() });
        }
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    fn add(&mut self, path: &Path, entry: Entry) {
        if let Some(above) = path.parent() {
            self.directory(above);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// In the order of the paths, so that a directory comes before what is in it.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let name = path.strip_prefix("/").unwrap_or(path);
            member(to, number, name.as_os_str().as_encoded_bytes(), entry.mode, &entry.content)?;
        }
        member(to, 0, b"TRAILER!!!", 0, &[])
    }
}

fn member(to: &mut impl Write, number: u32, name: &[u8], mode: u32, content: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "longer than 4 GiB");
    let size = u32::try_from(content.len()).map_err(too_long)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
    // inode, mode, uid, gid, links, time, size, device (2), device of a device (2), length of the name, checksum
    write!(to, "070701")?;
    for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(to, "{field:08X}")?;
    }
    to.write_all(name)?;
    to.write_all(&[0; 4][..=padding(110 + name.len() + 1)])?;
    to.write_all(content)?;
    to.write_all(&[0; 4][..padding(content.len())])
}

/// What is lacking to a multiple of four.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_directories_come_first() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b"), b"12345".to_vec(), 0o755);
        archive.link(Path::new("/a/c"), "b");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();

        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!((at % 4, &bytes[at..at + 6]), (0, &b"070701"[..]));
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + index * 8..][..8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let name = &bytes[at + 110..][..field(11) - 1];
            names.push((String::from_utf8(name.to_vec()).unwrap(), field(1)));
            assert_eq!(bytes[at + 110 + name.len()], 0);
            at += (110 + field(11)).next_multiple_of(4) + field(6).next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
        let expected = [("a", 0o040_755), ("a/b", 0o100_755), ("a/c", 0o120_777), ("TRAILER!!!", 0)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }
}
