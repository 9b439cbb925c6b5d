//! The coordinator's server-sent events (`/api/v1/events/stream`), line by line. Pure; the caller has the connection.

use wattle_api::rest::{SSE_EVENT, SSE_SNAPSHOT_BEGIN, SSE_SNAPSHOT_END};
use wattle_api::topology::TopologyEvent;

use crate::error::TopologyError;

/// What the coordinator said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A change, or an entity of a snapshot.
    Event(Box<TopologyEvent>),
    /// Entities of a snapshot follow.
    SnapshotBegin,
    /// The snapshot is complete.
    SnapshotEnd,
}

/// Puts lines together to messages.
#[derive(Debug, Default)]
pub struct Decoder {
    name: String,
    data: String,
    /// Identifier of the last complete message: what to resume after.
    last_id: Option<String>,
    id: Option<String>,
}

impl Decoder {
    /// Takes one line without its end; gives a message when the line ends one.
    pub fn line(&mut self, line: &str) -> Result<Option<Message>, TopologyError> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments keep the connection alive; other fields are not for us.
            _ => {}
        }
        Ok(None)
    }

    /// What to send as `Last-Event-ID` to go on after the last message.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn dispatch(&mut self) -> Result<Option<Message>, TopologyError> {
        let (name, data) = (
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.data),
        );
        if let Some(id) = self.id.take() {
            self.last_id = Some(id);
        }
        match name.as_str() {
            SSE_EVENT => {
                let event = serde_json::from_str(&data).map_err(TopologyError::Sse)?;
                Ok(Some(Message::Event(Box::new(event))))
            }
            SSE_SNAPSHOT_BEGIN => Ok(Some(Message::SnapshotBegin)),
            SSE_SNAPSHOT_END => Ok(Some(Message::SnapshotEnd)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &str) -> Vec<Message> {
        let mut decoder = Decoder::default();
        text.lines()
            .filter_map(|line| decoder.line(line).unwrap())
            .collect()
    }

    #[test]
    fn comments_unknown_events_and_broken_off_ones_give_nothing() {
        assert_eq!(
            feed(": alive\n\nevent: other\ndata: 1\n\nevent: topology\ndata: {"),
            []
        );
        assert_eq!(
            feed("event: snapshot-begin\ndata: {}\n\nevent: snapshot-end\n\n").len(),
            2
        );
    }

    #[test]
    fn the_id_counts_only_once_its_message_is_complete() {
        let mut decoder = Decoder::default();
        for line in ["id: 3:7", "event: other", "data: x"] {
            decoder.line(line).unwrap();
            assert_eq!(decoder.last_id(), None);
        }
        decoder.line("").unwrap();
        assert_eq!(decoder.last_id(), Some("3:7"));
    }

    #[test]
    fn an_event_that_is_none_is_an_error_and_the_next_one_is_read() {
        let mut decoder = Decoder::default();
        decoder.line("event: topology").unwrap();
        decoder.line("data: {\"id\":1}").unwrap();
        assert!(decoder.line("").is_err());
        decoder.line("event: snapshot-end").unwrap();
        assert_eq!(decoder.line("").unwrap(), Some(Message::SnapshotEnd));
    }
}
