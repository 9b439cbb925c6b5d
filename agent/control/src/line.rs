//! Lines: how one object stands on the socket, and how large it may be.

use std::io::{self, BufRead};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a request: names and numbers only, so a page is plenty.
pub const MAX_REQUEST_BYTES: usize = 4 << 10;

/// Bytes of one line of an answer: a topology of 1,000 nodes with ten links each is about 4 MiB.
pub const MAX_REPLY_BYTES: usize = 16 << 20;

/// Why a line was refused.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No end of line within the limit.
    #[error("a line is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The other side stopped in the middle of a line.
    #[error("the line ends after {bytes} bytes without a line feed")]
    Truncated {
        /// How much came.
        bytes: usize,
    },
    /// The line is not the expected object.
    #[error("not a message of this protocol: {0}")]
    Json(#[from] serde_json::Error),
}

/// One object as a line, line feed included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The object that a line stands for.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    Ok(serde_json::from_slice(line)?)
}

/// Reads one line of at most `limit` bytes, without its line feed; `None` at the end.
pub fn read_line(reader: &mut impl BufRead, limit: usize) -> Result<Option<Vec<u8>>, LineError> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return match line.len() {
                0 => Ok(None),
                bytes => Err(LineError::Truncated { bytes }),
            };
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > limit {
            return Err(LineError::TooLong { limit });
        }
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use wattle_model::Class;

    use super::*;
    use crate::Request;

    #[test]
    fn lines_come_back_as_they_went_whatever_the_reads_return() {
        let sent = [
            Request::Status {},
            Request::Path {
                dst: "räuber\n".into(),
                class: Class::Bulk,
            },
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(|r| encode(r).unwrap()).collect();
        for chunk in 1..bytes.len() {
            let mut reader = BufReader::with_capacity(chunk, Cursor::new(&bytes));
            for request in &sent {
                let line = read_line(&mut reader, MAX_REQUEST_BYTES).unwrap().unwrap();
                assert_eq!(&decode::<Request>(&line).unwrap(), request);
            }
            assert!(read_line(&mut reader, MAX_REQUEST_BYTES).unwrap().is_none());
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_before_it_is_kept() {
        let mut exact = Cursor::new(b"12345678\n");
        assert_eq!(read_line(&mut exact, 8).unwrap().unwrap(), b"12345678");
        let mut endless = BufReader::new(io::repeat(b'x'));
        assert!(matches!(
            read_line(&mut endless, 8),
            Err(LineError::TooLong { limit: 8 })
        ));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error_or_another_request_never_a_panic() {
        let whole = encode(&Request::Path {
            dst: "r3".into(),
            class: Class::Latency,
        })
        .unwrap();
        for cut in 1..whole.len() {
            let found = read_line(&mut Cursor::new(&whole[..cut]), MAX_REQUEST_BYTES);
            assert!(matches!(found, Err(LineError::Truncated { bytes }) if bytes == cut));
            assert!(decode::<Request>(&whole[..cut - 1]).is_err());
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(request) = decode::<Request>(&flipped) {
                assert!(matches!(
                    request,
                    Request::Path { .. } | Request::Ping { .. }
                ));
            }
        }
    }
}
