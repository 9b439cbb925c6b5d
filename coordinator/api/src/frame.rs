//! Framing of the agent protocol (`docs/protocol/coordinator.md` §2): a length in four big-endian bytes, then that
//! many bytes of JSON. Pure over bytes: whoever owns the socket feeds and drains it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest body. A peer set of about 7,000 nodes fits; a stranger cannot make us hold more than this.
pub const MAX_BODY: usize = 4 << 20;

/// Bytes of the length in front of each body.
pub const HEADER: usize = 4;

/// Why a frame cannot be written or read. The connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body is beyond [`MAX_BODY`].
    #[error("a frame of {0} bytes is beyond the limit of {MAX_BODY}; close the connection")]
    TooLong(usize),
    /// The body is not the message that was expected.
    #[error("the frame is not a message of this protocol: {0}")]
    Message(#[source] serde_json::Error),
}

/// One message as a frame, ready to be sent.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Message)?;
    let body = frame.len() - HEADER;
    if body > MAX_BODY {
        return Err(FrameError::TooLong(body));
    }
    frame[..HEADER].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_be_bytes());
    Ok(frame)
}

/// Reads messages from a stream of bytes that arrive in any pieces. Holds at most one frame and one read.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes bytes as they came from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes have come.
    pub fn next_message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((header, rest)) = self.buffer[self.at..].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_BODY {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(FrameError::Message)?;
        self.at += HEADER + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::ToCoordinator;

    fn messages() -> [ToCoordinator; 3] {
        [
            ToCoordinator::Ack { revision: 7 },
            ToCoordinator::Records {
                records: vec![vec![1, 2, 3].into()],
            },
            ToCoordinator::Leave,
        ]
    }

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let stream: Vec<u8> = messages().iter().flat_map(|m| encode(m).unwrap()).collect();
        for piece in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next_message::<ToCoordinator>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_body_comes() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_be_bytes());
        assert!(matches!(
            decoder.next_message::<ToCoordinator>(),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn flipped_bytes_are_errors_or_messages_but_never_panics() {
        let frame = encode(&messages()[1]).unwrap();
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[at] ^= 1 << bit;
                let mut decoder = Decoder::default();
                decoder.push(&damaged);
                let _ = decoder.next_message::<ToCoordinator>();
            }
        }
    }
}
