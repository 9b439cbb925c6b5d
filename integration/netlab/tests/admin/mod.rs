//! Changes of a broker's topics by hand.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use wattle_netlab::block_on;
use wattle_netlab::kafka::Broker;

/// Somebody with all rights who does what one should not.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl Admin {
    pub(crate) fn of(broker: &Broker) -> Self {
        let client = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .create()
            .unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        Self { client, options }
    }

    pub(crate) fn delete(&self, topic: &str) {
        block_on(self.client.delete_topics(&[topic], &self.options)).unwrap()[0]
            .as_ref()
            .unwrap();
        // Gone in the controller, and a moment later everywhere.
        std::thread::sleep(Duration::from_millis(300));
    }

    pub(crate) fn make(&self, topic: &str, partitions: i32) {
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        block_on(self.client.create_topics(&[topic], &self.options)).unwrap()[0]
            .as_ref()
            .unwrap();
    }

    pub(crate) fn grow(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        block_on(self.client.create_partitions(&[more], &self.options)).unwrap()[0]
            .as_ref()
            .unwrap();
    }

    /// The topic's configuration is these settings, and the defaults.
    pub(crate) fn set(&self, topic: &str, settings: &[(&str, &str)]) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = settings
            .iter()
            .fold(change, |change, (name, value)| change.set(name, value));
        block_on(self.client.alter_configs(&[change], &self.options)).unwrap()[0]
            .as_ref()
            .unwrap();
    }

    /// Deletes all records of a partition.
    pub(crate) fn empty(&self, topic: &str, partition: i32) {
        let mut ends = TopicPartitionList::new();
        ends.add_partition_offset(topic, partition, Offset::End)
            .unwrap();
        block_on(self.client.delete_records(&ends, &self.options)).unwrap();
    }
}
