//! Which partitions a site's records go to (`docs/protocol/topology-stream.md` §3): the slot map. It is part of the
//! desired state and append-only: a version that events were written under stays in it, so a reader of old records
//! knows where they are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeId, NodeName};

use crate::Timestamp;

/// Schema of slot map records: [`SlotMapRecord`].
pub const SLOTS_SCHEMA: &str = "wattle.topology.slots/v1";

/// The key of a network's slot map in the progress topic.
pub fn slots_key(network: &str) -> String {
    format!("wattle-slots-{network}")
}

/// One version of the slot map: `[[kafka.slots]]` of the coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotVersion {
    /// From 1, dense.
    pub version: u32,
    /// Slots of the sites that are not named, and of nodes without one.
    pub default: Vec<u32>,
    /// Slots of the named sites; a big site may own several. Sites may share a slot.
    #[serde(default)]
    pub sites: BTreeMap<NodeName, Vec<u32>>,
}

/// All versions, the newest last; empty = partitions by hash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotMap(pub Vec<SlotVersion>);

/// The slot map as it stands in the progress topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMapRecord {
    /// The network.
    pub network: NetworkId,
    /// Term of the coordinator that wrote it.
    pub term: u64,
    /// All versions under which events were written.
    pub versions: Vec<SlotsInForce>,
    /// When it was written.
    pub ts: Timestamp,
}

/// A version of the slot map and where it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsInForce {
    /// The first event that was written under it.
    pub since_seq: u64,
    /// The version.
    #[serde(flatten)]
    pub slots: SlotVersion,
}

/// Why a slot map cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotMapError {
    /// Versions are not 1, 2, 3 …
    #[error(
        "kafka.slots: version {found} stands where {wanted} should: append versions, never remove or renumber"
    )]
    Version {
        /// What stands there.
        found: u32,
        /// What should.
        wanted: u32,
    },
    /// A site, or the rest, without any slot.
    #[error("kafka.slots version {version}: {whose} has no slot: name at least one")]
    Empty {
        /// In which version.
        version: u32,
        /// Whose list.
        whose: String,
    },
    /// A slot that the topics do not have.
    #[error(
        "kafka.slots version {version}: slot {slot} of {whose} is beyond the {partitions} partitions of the topics"
    )]
    Beyond {
        /// In which version.
        version: u32,
        /// Whose list.
        whose: String,
        /// The slot.
        slot: u32,
        /// How many there are.
        partitions: u32,
    },
}

impl SlotMap {
    /// Whether versions are dense and every list has a slot that exists.
    pub fn check(&self, partitions: u32) -> Result<(), SlotMapError> {
        for (slots, wanted) in self.0.iter().zip(1..) {
            if slots.version != wanted {
                let found = slots.version;
                return Err(SlotMapError::Version { found, wanted });
            }
            slots.check(partitions)?;
        }
        Ok(())
    }

    /// The version that is to be in force.
    pub fn newest(&self) -> Option<&SlotVersion> {
        self.0.last()
    }

    /// One version.
    pub fn version(&self, version: u32) -> Option<&SlotVersion> {
        self.0.iter().find(|slots| slots.version == version)
    }
}

impl SlotVersion {
    fn check(&self, partitions: u32) -> Result<(), SlotMapError> {
        let version = self.version;
        for (whose, slots) in self.lists() {
            if slots.is_empty() {
                return Err(SlotMapError::Empty { version, whose });
            }
            if let Some(&slot) = slots.iter().find(|slot| **slot >= partitions) {
                return Err(SlotMapError::Beyond {
                    version,
                    whose,
                    slot,
                    partitions,
                });
            }
        }
        Ok(())
    }

    fn lists(&self) -> impl Iterator<Item = (String, &Vec<u32>)> {
        let sites = self
            .sites
            .iter()
            .map(|(site, slots)| (format!("site {site}"), slots));
        std::iter::once(("default".to_owned(), &self.default)).chain(sites)
    }

    /// The slots of a site.
    pub fn of_site(&self, site: Option<&NodeName>) -> &[u32] {
        site.and_then(|site| self.sites.get(site))
            .unwrap_or(&self.default)
    }

    /// The slot of one record: that of the node that answers for the entity, so a node's records keep their order.
    pub fn slot(&self, site: Option<&NodeName>, owner: NodeId) -> u32 {
        let slots = self.of_site(site);
        let place = mix(owner.0) % slots.len().max(1) as u64;
        slots.get(place as usize).copied().unwrap_or(0)
    }
}

impl SlotMapRecord {
    /// Every partition that holds, or ever held, records of a site.
    pub fn of_site(&self, site: Option<&NodeName>) -> BTreeSet<u32> {
        let versions = self.versions.iter();
        versions
            .flat_map(|in_force| in_force.slots.of_site(site).iter().copied())
            .collect()
    }
}

/// The finaliser of MurmurHash3. Frozen: a change moves nodes between the slots of their site.
const fn mix(id: u64) -> u64 {
    let mixed = (id ^ (id >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u32, sites: &[(&str, &[u32])]) -> SlotVersion {
        let sites = sites
            .iter()
            .map(|(site, slots)| (site.parse().unwrap(), slots.to_vec()));
        SlotVersion {
            version,
            default: vec![0],
            sites: sites.collect(),
        }
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn a_site_owns_its_slots_and_the_rest_shares_the_default() {
        let slots = version(1, &[("fra1", &[1, 2]), ("ams2", &[3])]);
        for node in 0..100 {
            assert!([1, 2].contains(&slots.slot(Some(&name("fra1")), NodeId(node))));
            assert_eq!(slots.slot(Some(&name("ams2")), NodeId(node)), 3);
            assert_eq!(slots.slot(Some(&name("lon3")), NodeId(node)), 0);
            assert_eq!(slots.slot(None, NodeId(node)), 0);
        }
        let in_first =
            (0..1_000).filter(|node| slots.slot(Some(&name("fra1")), NodeId(*node)) == 1);
        assert!((400..600).contains(&in_first.count()), "a big site spreads");
    }

    #[test]
    fn the_slot_of_a_node_is_frozen() {
        let slots = version(1, &[("fra1", &[0, 1, 2, 3, 4])]);
        let found = [1, 2, 0xaa, 0xbb].map(|node| slots.slot(Some(&name("fra1")), NodeId(node)));
        assert_eq!(found, FROZEN);
    }

    const FROZEN: [u32; 4] = [4, 1, 4, 0];

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let told = |map: &[SlotVersion]| SlotMap(map.to_vec()).check(4).unwrap_err().to_string();
        assert!(told(&[version(2, &[])]).contains("version 2 stands where 1"));
        assert!(told(&[version(1, &[]), version(1, &[])]).contains("append"));
        assert!(told(&[version(1, &[("fra1", &[])])]).contains("site fra1 has no slot"));
        assert!(told(&[version(1, &[("fra1", &[4])])]).contains("slot 4 of site fra1"));
        let good = SlotMap(vec![version(1, &[]), version(2, &[("fra1", &[3])])]);
        assert_eq!(good.check(4), Ok(()));
        assert_eq!(good.newest().map(|slots| slots.version), Some(2));
    }

    #[test]
    fn a_reader_of_one_site_finds_every_slot_that_it_ever_had() {
        let in_force = |since_seq, slots| SlotsInForce { since_seq, slots };
        let record = SlotMapRecord {
            network: NetworkId(1),
            term: 1,
            versions: vec![
                in_force(1, version(1, &[])),
                in_force(50, version(2, &[("fra1", &[2, 3])])),
            ],
            ts: Timestamp::from_millis(0),
        };
        assert_eq!(record.of_site(Some(&name("fra1"))), [0, 2, 3].into());
        assert_eq!(record.of_site(None), [0].into());
    }
}
