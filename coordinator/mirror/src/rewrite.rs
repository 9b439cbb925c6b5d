//! Writing the state topic from a picture of the whole topology: when it was lost, when events are missing that would
//! have changed it, and when sites move to other slots. What the topic holds is read first, so that nothing stays
//! where it should not be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use wattle_api::slots::{SlotMapRecord, SlotVersion, SlotsInForce, slots_key};
use wattle_api::stream::FILLER_KEY;

use crate::batch::Batch;
use crate::client::Complaints;
use crate::ends::{Ends, is_passing, watermarks};
use crate::error::MirrorError;
use crate::outbox::Outbox;
use crate::position::{Position, in_progress};
use crate::producer::Transactor;
use crate::record::{Context, partition};
use crate::snapshots::Picture;
use crate::status::now;
use crate::topics::Existing;

/// How long the database may take to show the topology.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that the state topic shows: keys, and in which partitions they have an image.
pub(crate) type Table = BTreeMap<String, Vec<u32>>;

/// The topology as the newest event left it.
pub(crate) fn picture(outbox: &mut impl Outbox) -> Result<Picture, MirrorError> {
    match outbox.image().recv_timeout(PATIENCE) {
        Ok(image) => Ok(Picture::of(image.map_err(MirrorError::Outbox)?)),
        Err(_) => Err(MirrorError::NoPicture(PATIENCE)),
    }
}

/// What the state topic shows.
pub(crate) fn table(
    context: &Context,
    existing: &Existing,
    complaints: &Complaints,
) -> Result<Table, MirrorError> {
    let mut table = Table::new();
    if existing.state_made {
        return Ok(table);
    }
    let ends = Ends {
        config: &context.config,
        complaints,
    };
    // One for all partitions: each takes half a second to find its brokers.
    let consumer = ends.consumer("read_committed")?;
    for partition in 0..existing.partitions as u32 {
        let place = (context.topics.state.as_str(), partition as i32);
        ends.each(&consumer, place, |message| {
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            if key == FILLER_KEY {
                return;
            }
            let places = table.entry(key).or_default();
            places.retain(|place| *place != partition);
            if message.payload().is_some() {
                places.push(partition);
            }
        })?;
    }
    table.retain(|_, places| !places.is_empty());
    Ok(table)
}

/// Writes the images of a picture and tombstones for everything else that the topic shows, in as many transactions as
/// it takes. The position says that the state is not current until the last of them. Events up to the picture must
/// have been written, and none after it.
pub(crate) fn write(
    context: &Context,
    producer: &Transactor,
    position: Position,
    picture: &Picture,
    table: &Table,
    complaints: &Complaints,
) -> Result<Position, MirrorError> {
    debug_assert_eq!(
        position.last_seq, picture.seq,
        "a picture of another moment"
    );
    let newest = context.config.kafka.slots.newest();
    let mut moves = moves(newest, position.hashed, picture, table)
        .into_iter()
        .peekable();
    let mut position = position;
    loop {
        let mut batch = Batch::new(context, &position)?;
        while !batch.is_full()
            && let Some(Move {
                partition,
                key,
                image,
            }) = moves.next()
        {
            batch.state(partition, key, image, picture.seq);
        }
        let done = moves.peek().is_none();
        if done {
            batch.after.state_seq = picture.seq;
            batch.after.state_lost = false;
            let version = newest.map_or(0, |slots| slots.version);
            if version != batch.after.slots {
                batch.slot_map(&slot_map(context, newest, picture.seq + 1, complaints)?);
                batch.after.slots = version;
            }
        }
        batch.close();
        producer.commit(&context.topics, &batch.records)?;
        position = batch.after;
        if done {
            return Ok(position);
        }
    }
}

/// One record for the state topic.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    partition: u32,
    key: String,
    image: Option<String>,
}

/// What has to be written for the topic to show the picture: every image, and a tombstone wherever else something is.
fn moves(
    slots: Option<&SlotVersion>,
    partitions: usize,
    picture: &Picture,
    table: &Table,
) -> Vec<Move> {
    let mut moves = Vec::with_capacity(picture.entities.len());
    let mut wanted = BTreeMap::new();
    for entity in &picture.entities {
        let key = &entity.key;
        let partition = partition(slots, partitions, entity.site.as_ref(), key, entity.owner);
        wanted.insert(key.as_str(), partition);
        moves.push(Move {
            partition,
            key: key.clone(),
            image: Some(entity.text.clone()),
        });
    }
    for (key, places) in table {
        let stays = wanted.get(key.as_str());
        let gone = places.iter().filter(|place| Some(*place) != stays);
        moves.extend(gone.map(|partition| Move {
            partition: *partition,
            key: key.clone(),
            image: None,
        }));
    }
    moves
}

/// The slot maps so far, and the newest from this event on.
pub(crate) fn slot_map(
    context: &Context,
    newest: Option<&SlotVersion>,
    since_seq: u64,
    complaints: &Complaints,
) -> Result<SlotMapRecord, MirrorError> {
    let ends = Ends {
        config: &context.config,
        complaints,
    };
    let key = slots_key(&context.config.network_name);
    let before: Option<SlotMapRecord> = in_progress(&ends, &context.topics, &key)?;
    let mut versions = before.map_or_else(Vec::new, |record| record.versions);
    if let Some(slots) = newest {
        versions.retain(|in_force| in_force.slots.version < slots.version);
        versions.push(SlotsInForce {
            since_seq,
            slots: slots.clone(),
        });
    }
    Ok(SlotMapRecord {
        network: context.config.network,
        term: context.config.term,
        versions,
        ts: now(),
    })
}

/// All slot maps that are configured, where nobody knows any more which events were written under which: readers look
/// wherever any of them, or the hash, may have put a record.
pub(crate) fn all_slot_maps(context: &Context, last_seq: u64) -> SlotMapRecord {
    let versions = context.config.kafka.slots.0.iter();
    let in_force = |slots: &SlotVersion| SlotsInForce {
        since_seq: last_seq + 1,
        slots: slots.clone(),
    };
    SlotMapRecord {
        network: context.config.network,
        term: context.config.term,
        versions: versions.map(in_force).collect(),
        ts: now(),
    }
}

impl Ends<'_> {
    /// Shows every committed record of a partition.
    fn each(
        &self,
        consumer: &BaseConsumer<Complaints>,
        (topic, partition): (&str, i32),
        mut show: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), MirrorError> {
        let doing = format!("read {topic}");
        let explain = |error| self.complaints.explain(&doing, error);
        let (low, _) = watermarks(consumer, topic, partition).map_err(explain)?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(low))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(explain)?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    show(&message);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if !is_passing(&error) => {
                    return Err(explain(error));
                }
                Some(Err(_)) | None if heard.elapsed() > PATIENCE => {
                    let late = RDKafkaErrorCode::OperationTimedOut;
                    return Err(explain(KafkaError::MessageConsumption(late)));
                }
                Some(Err(_)) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_model::NodeId;

    use super::*;
    use crate::snapshots::Pictured;

    #[test]
    fn images_go_where_they_belong_and_everything_else_goes() {
        let entity = |node: u64, site: &str| Pictured {
            key: format!("node:{node:016x}"),
            owner: Some(NodeId(node)),
            site: Some(site.parse().unwrap()),
            text: "{}".into(),
        };
        let picture = Picture {
            seq: 9,
            entities: vec![entity(1, "fra1"), entity(2, "ams2"), entity(3, "lon3")],
        };
        let slots = SlotVersion {
            version: 2,
            default: vec![0],
            sites: [
                ("fra1".parse().unwrap(), vec![1]),
                ("ams2".parse().unwrap(), vec![2]),
            ]
            .into(),
        };
        let key = |node: u64| format!("node:{node:016x}");
        let table = [(key(1), vec![0]), (key(2), vec![2, 4]), (key(9), vec![3])].into();
        let told: Vec<(u32, String, bool)> = moves(Some(&slots), 5, &picture, &table)
            .into_iter()
            .map(|one| (one.partition, one.key, one.image.is_some()))
            .collect();
        let expected = [
            (1, key(1), true),
            (2, key(2), true),
            (0, key(3), true),
            (0, key(1), false),
            (4, key(2), false),
            (3, key(9), false),
        ];
        assert_eq!(told, expected);
    }
}
