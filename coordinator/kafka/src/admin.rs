//! A cluster that is asked what it has, and changed one thing after the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::AlterUserScramCredentialsRequest;
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use wattle_api::secret::{SecretRef, Secrets};
use wattle_api::stream::{Kafka, Sasl};
use zeroize::Zeroizing;

use crate::changes;
use crate::connection::{Connection, text};
use crate::document::User;
use crate::error::ClusterError;
use crate::item::Change;
use crate::observed::{Observed, Scram};
use crate::questions;
use crate::scram::salted_password;
use crate::wanted::{Wanted, WantedTopic};

/// Bytes of salt for a password.
const SALT: usize = 24;

/// How long a change may take until every broker knows of it.
const SPREADING: Duration = Duration::from_secs(10);

/// Between two questions about something that is under way.
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster that can be asked and changed.
pub struct Admin<'a, S> {
    kafka: &'a Kafka,
    secrets: &'a S,
    connection: Option<Connection>,
}

impl<'a, S: Secrets> Admin<'a, S> {
    /// Connects and logs in.
    pub fn connect(kafka: &'a Kafka, secrets: &'a S) -> Result<Self, ClusterError> {
        let connection = Some(Connection::open(kafka, secrets)?);
        Ok(Self {
            kafka,
            secrets,
            connection,
        })
    }

    /// What the cluster has, as far as `wanted` speaks of it.
    pub fn observe(&mut self, wanted: &Wanted) -> Result<Observed, ClusterError> {
        let mut observed = self.topics(wanted)?;
        if wanted.topics.values().any(WantedTopic::is_tiered) {
            observed.tiered = self.can_tier(observed.brokers.keys().copied().collect())?;
        }
        observed.moving = self.on(questions::moving)?;
        observed.acls = match self.on(questions::rights) {
            Ok(acls) => Some(acls),
            Err(error) if error.is_without_rights() => None,
            Err(error) => return Err(error),
        };
        if !wanted.users.is_empty() || !wanted.gone_users.is_empty() {
            observed.users = self.on(questions::users)?;
            observed.other_passwords = self.try_passwords(wanted, &observed)?;
        }
        Ok(observed)
    }

    /// The brokers, and the topics with their settings. A topic that is just being deleted may still be listed while its
    /// settings are gone: both are asked for anew.
    fn topics(&mut self, wanted: &Wanted) -> Result<Observed, ClusterError> {
        let end = Instant::now() + SPREADING;
        loop {
            let mut observed = self.on(|connection| questions::metadata(connection, wanted))?;
            match self.on(|connection| questions::settings(connection, &mut observed.topics)) {
                Ok(()) => return Ok(observed),
                Err(error) if error.is_unknown_topic() && Instant::now() < end => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes one change.
    pub fn make(&mut self, change: &Change) -> Result<(), ClusterError> {
        match change {
            Change::Nothing => Ok(()),
            Change::CreateTopic {
                topic,
                wanted,
                replicas,
            } => self.on(|connection| changes::create_topic(connection, topic, wanted, replicas)),
            Change::SetConfig { topic, settings } => {
                self.on(|connection| changes::set_config(connection, topic, settings))
            }
            Change::AddPartitions { topic, count } => {
                self.on(|connection| changes::add_partitions(connection, topic, *count))
            }
            Change::Reassign { topic, replicas } => {
                self.on(|connection| changes::reassign(connection, topic, replicas))
            }
            Change::ElectLeaders { topic, partitions } => {
                self.on(|connection| changes::elect(connection, topic, partitions))
            }
            Change::SetPassword(user) => self.set_password(user),
            Change::Grant(acl) => self.on(|connection| changes::grant(connection, acl)),
            Change::Revoke(acl) => self.on(|connection| changes::revoke(connection, acl)),
            Change::DeleteUser { user, kinds } => {
                self.on(|connection| changes::delete_user(connection, user, kinds))
            }
            Change::DeleteTopic(topic) => {
                self.on(|connection| changes::delete_topic(connection, topic))
            }
        }
    }

    /// Whether the brokers can move segments to remote storage. A broker tells its own settings alone, and none says which
    /// it is: all are asked for until one answers.
    fn can_tier(&mut self, brokers: Vec<i32>) -> Result<bool, ClusterError> {
        let mut answer = Ok(false);
        for broker in brokers {
            answer = self.on(|connection| questions::can_tier(connection, broker));
            match &answer {
                Err(error) if !error.ends_connection() => {}
                Ok(_) | Err(_) => break,
            }
        }
        answer
    }

    /// Waits until no copies of `topic` are being moved; false if they still are after `patience`.
    pub fn wait_for_moves(
        &mut self,
        topic: &str,
        patience: Duration,
    ) -> Result<bool, ClusterError> {
        let end = Instant::now() + patience;
        while self.on(questions::moving)?.contains(topic) {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(true)
    }

    /// Asks over the connection, or over another one if that broke.
    fn on<T>(
        &mut self,
        ask: impl FnOnce(&mut Connection) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.kafka, self.secrets)?,
        };
        let answer = ask(&mut connection);
        if answer
            .as_ref()
            .err()
            .is_none_or(|error| !error.ends_connection())
        {
            self.connection = Some(connection);
        }
        answer
    }

    /// The users whose password is another than the document's. A cluster never tells a password, so it is tried.
    fn try_passwords(
        &self,
        wanted: &Wanted,
        observed: &Observed,
    ) -> Result<BTreeSet<String>, ClusterError> {
        let mut others = BTreeSet::new();
        if !self.kafka.protocol.has_sasl() {
            return Ok(others);
        }
        for (name, user) in &wanted.users {
            let kind = Scram::of(user.mechanism);
            let known = observed.users.get(name).zip(kind);
            if known.is_some_and(|(kinds, kind)| kinds.contains_key(&kind))
                && !self.lets_in(user)?
            {
                others.insert(name.clone());
            }
        }
        Ok(others)
    }

    fn lets_in(&self, user: &User) -> Result<bool, ClusterError> {
        let Some(reference) = user.password() else {
            return Ok(true);
        };
        let password = read(&reference, self.secrets)?;
        let mut sasl = Sasl::in_file(&user.name, "");
        sasl.mechanism = user.mechanism;
        match Connection::open_as(self.kafka, self.secrets, Some((&sasl, &password))) {
            Ok(_) => Ok(true),
            Err(ClusterError::Credentials { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_password(&mut self, user: &User) -> Result<(), ClusterError> {
        let (Some(reference), Some(kind)) = (user.password(), Scram::of(user.mechanism)) else {
            return Ok(());
        };
        let password = read(&reference, self.secrets)?;
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|error| ClusterError::Random(error.to_string()))?;
        let salted = salted_password(user.mechanism, &password, &salt, user.iterations);
        let salted = salted.unwrap_or_default();
        let change = ScramCredentialUpsertion::default()
            .with_name(text(&user.name))
            .with_mechanism(kind.code())
            .with_iterations(user.iterations as i32)
            .with_salt(Bytes::copy_from_slice(&salt))
            .with_salted_password(Bytes::copy_from_slice(&salted));
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![change]);
        self.on(|connection| changes::alter_user(connection, &request))
    }
}

fn read(reference: &SecretRef, secrets: &impl Secrets) -> Result<Zeroizing<String>, ClusterError> {
    let setting = match reference {
        SecretRef::File(_) => "desired.users.password_file",
        SecretRef::Variable(_) => "desired.users.password_env",
        SecretRef::Credential(_) => "desired.users.password_credential",
    };
    Ok(reference.read(setting, secrets)?)
}
