//! Messages over a connection, each after its length (RFC 1035, section 4.2.2).

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
};

/// The bytes of a length.
const LENGTH: usize = 2;
/// So much of what the other end does not take is kept.
const UNSENT: usize = 256 * 1024;

pub(super) struct Framed {
    pub(super) stream: TcpStream,
    /// No longer message is taken.
    longest: usize,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Framed {
    /// Over a connection that does not block.
    pub(super) fn new(stream: TcpStream, longest: usize) -> Self {
        Self { stream, longest, input: Vec::new(), output: Vec::new() }
    }

    /// Takes in what has come.
    ///
    /// # Errors
    /// When there will be no more, or too much came at once.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.input.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When it is longer than any should be.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((length, _)) = self.input.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > self.longest {
            return Err(ErrorKind::InvalidData.into());
        }
        let Some(message) = self.input.get(LENGTH..LENGTH + length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.input.drain(..LENGTH + length);
        Ok(Some(message))
    }

    /// Sends a message, or as much of it as the other end takes.
    ///
    /// # Errors
    /// When the connection is over, or too much waits already.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.output.len() > UNSENT {
            return Err(ErrorKind::StorageFull.into());
        }
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
        self.flush()
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// When the connection is over.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                // A connection that is still to be made says the first.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }
}
