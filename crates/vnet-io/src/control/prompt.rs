//! Who may say how long it takes to answer. What a connection was is kept, when it has ended, for three times as long as an answer may
//! take (RFC 9000, section 10.2): who says that this is sixteen seconds, as anybody may with its first packet, has some 30 kB kept for
//! most of a minute by each handshake that it begins.

use std::{any::Any, sync::Arc};

use quinn::{
    ConnectionId, Side, TransportErrorCode,
    crypto::{
        ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
        UnsupportedVersion, rustls::QuicServerConfig,
    },
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};

/// By which number it is said (RFC 9000, section 18.2), and the most that is taken, in milliseconds. All hosts say 25.
const MAX_ACK_DELAY: (u64, u64) = (0x0b, 100);

/// What takes connections of those who answer soon.
pub(super) struct Prompt(Arc<QuicServerConfig>);

impl Prompt {
    pub(super) fn new(config: QuicServerConfig) -> Self {
        Self(Arc::new(config))
    }
}

impl ServerConfig for Prompt {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, id, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        Box::new(OfPrompt(Arc::clone(&self.0).start_session(version, parameters)))
    }
}

/// A session with one of them.
struct OfPrompt(Box<dyn Session>);

impl Session for OfPrompt {
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let parameters = self.0.transport_parameters()?;
        if parameters.as_ref().is_some_and(|parameters| !is_prompt(parameters)) {
            let code = TransportErrorCode::TRANSPORT_PARAMETER_ERROR;
            return Err(TransportError { code, frame: None, reason: "it answers late".to_owned() });
        }
        Ok(parameters)
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(bytes)
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}

/// Whether somebody answers soon, as it says. What it does not say is 25 milliseconds; quinn does not show what it has read, but writes
/// it as it was.
fn is_prompt(parameters: &TransportParameters) -> bool {
    let mut bytes = Vec::new();
    parameters.write(&mut bytes);
    let mut rest = &bytes[..];
    let (id, most) = MAX_ACK_DELAY;
    while !rest.is_empty() {
        let (Some(number), Some(length)) = (variable(&mut rest), variable(&mut rest)) else { return false };
        let Some((mut value, after)) = usize::try_from(length).ok().and_then(|at| rest.split_at_checked(at))
        else {
            return false;
        };
        if number == id && variable(&mut value).is_none_or(|delay| delay > most) {
            return false;
        }
        rest = after;
    }
    true
}

/// A number of variable length (RFC 9000, section 16).
fn variable(rest: &mut &[u8]) -> Option<u64> {
    let (first, _) = rest.split_first()?;
    let (bytes, after) = rest.split_at_checked(1 << (first >> 6))?;
    *rest = after;
    let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Some(number & u64::MAX >> (66 - 8 * bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_soon_is_taken_and_who_says_that_it_does_not_is_not() {
        let said = |bytes: &[u8]| TransportParameters::read(Side::Server, &mut &bytes[..]).unwrap();
        assert!(is_prompt(&said(&[])), "who says nothing answers soon");
        // Others come before and after: the longest datagram, and how many identifiers are kept.
        let among = |delay: &[u8]| said(&[&[3, 2, 0x63, 0x0c][..], delay, &[14, 1, 5]].concat());
        assert!(is_prompt(&among(&[])));
        for (delay, is_taken) in
            [(&[0x0b, 1, 0][..], true), (&[0x0b, 2, 0x40, 100], true), (&[0x0b, 2, 0x40, 101], false)]
        {
            assert_eq!(is_prompt(&among(delay)), is_taken, "{delay:?}");
        }
    }
}
