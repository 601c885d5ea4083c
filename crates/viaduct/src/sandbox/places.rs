//! Files and TCP ports that a process may use (landlock(7)).

use std::{io, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// What is asked for; older kernels do a part of it.
const VERSION: ABI = ABI::V6;

/// How a place is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Read, and what is in it.
    Read,
    /// A directory in which files and sockets are made, read, written and removed.
    Keep,
    /// A device that is opened and controlled.
    Device,
}

impl Use {
    fn access(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile.into(),
            Self::Keep => {
                AccessFs::ReadFile
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeSock
                    | AccessFs::RemoveFile
            }
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
        }
    }
}

/// What a process may use; nothing else. What is open already stays open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Files, and directories with what is below them. What is not there may not be used when it comes.
    pub(crate) files: Vec<(PathBuf, Use)>,
    /// TCP ports that it may listen on, and connect to.
    pub(crate) ports: Vec<u16>,
}

/// How much of it the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confined {
    Wholly,
    InPart,
    Not,
}

impl Places {
    pub(super) fn confine(&self) -> io::Result<Confined> {
        let refused = |error| io::Error::other(format!("Landlock: {error}"));
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(VERSION)))
            .and_then(|rules| rules.scope(Scope::from_all(VERSION)))
            .and_then(Ruleset::create)
            .map_err(refused)?;
        for (path, used) in &self.files {
            let Ok(place) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(place, used.access())).map_err(refused)?;
        }
        for port in &self.ports {
            rules = rules
                .add_rule(NetPort::new(*port, AccessNet::BindTcp | AccessNet::ConnectTcp))
                .map_err(refused)?;
        }
        // That nothing new is gained by executing something was set before.
        let status = rules.no_new_privs(false).restrict_self().map_err(refused)?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Confined::Wholly,
            RulesetStatus::PartiallyEnforced => Confined::InPart,
            RulesetStatus::NotEnforced => Confined::Not,
        })
    }
}
