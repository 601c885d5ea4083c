//! What the lab's own process tells the one that started it, a line of JSON each.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{file::Name, report::Outcome};

/// Something that happened in a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// A stage began: what is done next.
    Stage(String),
    /// A command ended on a machine.
    Ran {
        /// Where.
        machine: Name,
        /// The command, as people would type it.
        command: String,
        /// What it said.
        output: String,
        /// How long it took.
        milliseconds: u64,
    },
    /// It is known whether an expectation holds. In the order of finding out.
    Checked(Outcome),
}

/// Everything that is said between the two processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The process id of the lab's init, as seen outside.
    Init(u32),
    Event(Event),
    /// All machines stand and all guests are attached.
    Ready(BTreeMap<Name, Handles>),
    /// The outcomes in the order of the file, and the milliseconds since the start.
    Done(Vec<Outcome>, u64),
    Failed {
        what: String,
        output: String,
    },
}

/// How others enter a machine: numbers of files that the lab's init has open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Handles {
    pub(crate) net: i32,
    pub(crate) mounts: i32,
    pub(crate) viaduct: Vec<String>,
}

/// The sending end; threads share it.
#[derive(Debug)]
pub(crate) struct Reporter(Mutex<UnixStream>);

impl Reporter {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Mutex::new(stream))
    }

    /// Says it, if anybody still listens: the one who started a lab that stays up may be gone.
    pub(crate) fn say(&self, message: &Message) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
    }

    pub(crate) fn event(&self, event: Event) {
        self.say(&Message::Event(event));
    }
}

/// The messages as they come, until the other end is gone.
pub(crate) fn messages(stream: UnixStream) -> impl Iterator<Item = io::Result<Message>> {
    BufReader::new(stream).lines().map(|line| Ok(serde_json::from_str(&line?)?))
}
