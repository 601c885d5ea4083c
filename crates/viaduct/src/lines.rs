//! What another of our processes says, line by line, and whether it still does.

use std::{
    io::{self, BufRead, BufReader},
    os::unix::net::UnixStream,
    time::Duration,
};

/// It answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it has said nothing for so long it is asked something.
const QUIET: Duration = Duration::from_secs(10);

pub(crate) struct Lines {
    reader: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream), begun: Vec::new() }
    }

    /// The next line that answers something; none when it ended.
    ///
    /// # Errors
    /// When it says nothing in time ([`is_silence`]), or the connection is lost.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.within(PATIENCE)
    }

    /// The next line, however long that takes; none when it ended.
    ///
    /// # Errors
    /// When it does not even answer what it is asked then ([`is_silence`]), or the connection is lost.
    pub(crate) fn next_while_alive(
        &mut self,
        ask: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<Vec<u8>>> {
        match self.within(QUIET) {
            Err(error) if is_silence(&error) => {
                ask()?;
                self.next()
            }
            said => said,
        }
    }

    fn within(&mut self, time: Duration) -> io::Result<Option<Vec<u8>>> {
        self.reader.get_ref().set_read_timeout(Some(time))?;
        let length = self.reader.read_until(b'\n', &mut self.begun)?;
        Ok((length > 0).then(|| std::mem::take(&mut self.begun)))
    }
}

/// Whether nothing was said in time: it is there, and does nothing.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
