//! Who of a shared namespace's guests is the first, and who the last: by locks on two files, which go with the processes
//! that hold them.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A guest among those of its namespace.
pub(crate) struct Membership {
    /// Held by one at a time: while it is found out who is first or last, and while the namespace's hooks run.
    gate: File,
    /// Held together by all that run.
    members: File,
}

/// Whether others are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    Alone,
    Others,
}

impl Membership {
    /// Joins. Until [`Self::open`], others wait who want to join or leave.
    pub(crate) fn join(
        run_dir: &Path,
        namespace: &str,
        waiting: impl FnOnce(),
    ) -> io::Result<(Self, Company)> {
        let directory = run_dir.join("lives");
        fs::create_dir_all(&directory)?;
        let file = |kind: &str| {
            let path = directory.join(format!("{namespace}.{kind}"));
            File::options().create(true).write(true).truncate(false).open(path)
        };
        let own = Self { gate: file("gate")?, members: file("members")? };
        if !try_lock(&own.gate)? {
            waiting();
            own.close()?;
        }
        let company = own.company()?;
        flock(&own.members, FlockOperation::LockShared)?;
        Ok((own, company))
    }

    /// Lets others join and leave.
    pub(crate) fn open(&self) {
        // What is locked can be unlocked.
        let _ = flock(&self.gate, FlockOperation::Unlock);
    }

    /// Leaves. Until it is dropped, others wait who want to join or leave, if it was the last.
    pub(crate) fn leave(&self) -> io::Result<Company> {
        self.close()?;
        let company = self.company()?;
        if company == Company::Others {
            flock(&self.members, FlockOperation::Unlock)?;
            self.open();
        }
        Ok(company)
    }

    fn close(&self) -> io::Result<()> {
        loop {
            match flock(&self.gate, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn company(&self) -> io::Result<Company> {
        Ok(if try_lock(&self.members)? { Company::Alone } else { Company::Others })
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
