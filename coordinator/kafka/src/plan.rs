//! The way from what a cluster has to what it should have, item by item: what may be done at once, what needs a flag
//! because something is lost by it, and what Kafka cannot do in place. Asks nobody and changes nothing.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use crate::acl::Acl;
use crate::item::{Action, Change, Difference, Flag, Item, Verdict};
use crate::moves::Moves;
use crate::observed::{Observed, ObservedTopic, Scram};
use crate::wanted::{REMOTE, Wanted, WantedTopic, principal};

/// What a right is that somebody has.
const GRANTED: &str = "granted";

/// Everything that differs, in the order in which it is to be changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Plan {
    /// What differs.
    pub items: Vec<Item>,
    /// What is there and nobody asked for; left alone.
    pub notes: Vec<String>,
}

impl Plan {
    /// Compares.
    pub fn between(observed: &Observed, wanted: &Wanted) -> Self {
        let mut plan = Self::default();
        for (name, topic) in &wanted.topics {
            match observed.topics.get(name) {
                None => plan.create_topic(name, topic, observed),
                Some(found) => plan.compare_topic(name, found, topic, observed),
            }
        }
        plan.compare_users(observed, wanted);
        plan.compare_rights(observed, wanted);
        plan.remove(observed, wanted);
        plan
    }

    /// Whether the cluster is as it should be.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items that may be done with these flags.
    pub fn allowed(&self, flags: &BTreeSet<Flag>) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.verdict.allows(flags))
    }

    fn add(
        &mut self,
        subject: String,
        action: Action,
        differences: Vec<Difference>,
        change: Change,
    ) {
        self.add_with(subject, action, differences, Verdict::Free, change);
    }

    fn add_with(
        &mut self,
        subject: String,
        action: Action,
        differences: Vec<Difference>,
        verdict: Verdict,
        change: Change,
    ) {
        self.items.push(Item {
            subject,
            action,
            differences,
            verdict,
            change,
        });
    }

    fn refuse(&mut self, subject: String, action: Action, difference: Difference, why: String) {
        let verdict = Verdict::Refused { why };
        self.add_with(subject, action, vec![difference], verdict, Change::Nothing);
    }

    fn create_topic(&mut self, name: &str, topic: &WantedTopic, observed: &Observed) {
        let subject = format!("topic {name}");
        let copies = topic
            .replication
            .map_or_else(|| "default".to_owned(), |n| n.to_string());
        let mut differences = vec![
            Difference::new("partitions", None, Some(topic.partitions.to_string())),
            Difference::new("replication", None, Some(copies)),
        ];
        let settings = topic.config.iter();
        differences
            .extend(settings.map(|(key, value)| Difference::new(key, None, Some(value.clone()))));
        if let Some(why) = topic.cannot_be_in(observed) {
            let verdict = Verdict::Refused { why };
            self.add_with(
                subject,
                Action::Create,
                differences,
                verdict,
                Change::Nothing,
            );
            return;
        }
        let replicas = topic.replicas(observed).unwrap_or_default();
        let change = Change::CreateTopic {
            topic: name.to_owned(),
            wanted: topic.clone(),
            replicas,
        };
        self.add(subject, Action::Create, differences, change);
    }

    fn compare_topic(
        &mut self,
        name: &str,
        found: &ObservedTopic,
        wanted: &WantedTopic,
        observed: &Observed,
    ) {
        self.compare_partitions(name, found, wanted);
        self.compare_settings(name, found, wanted, observed);
        self.compare_places(name, found, wanted, observed);
        let strange = found
            .own
            .iter()
            .filter(|key| !wanted.config.contains_key(*key));
        for key in strange {
            let value = found.config.get(key).map_or("", String::as_str);
            self.notes.push(format!(
                "topic {name}: {key} = {value} is set and not named here"
            ));
        }
    }

    fn compare_partitions(&mut self, name: &str, found: &ObservedTopic, wanted: &WantedTopic) {
        let (has, should) = (found.partitions.len(), wanted.partitions as usize);
        if has == should {
            return;
        }
        let subject = format!("topic {name}");
        let difference = Difference::new(
            "partitions",
            Some(has.to_string()),
            Some(should.to_string()),
        );
        if has > should {
            let why = "Kafka never takes partitions away: make another topic, or set what is there";
            self.refuse(subject, Action::Change, difference, why.to_owned());
        } else if wanted.keyed {
            let why = "records would change their partition, so one key would be in two: make the topic anew, or set what is there";
            self.refuse(subject, Action::Change, difference, why.to_owned());
        } else {
            let (topic, count) = (name.to_owned(), wanted.partitions);
            let change = Change::AddPartitions { topic, count };
            self.add(subject, Action::Change, vec![difference], change);
        }
    }

    fn compare_settings(
        &mut self,
        name: &str,
        found: &ObservedTopic,
        wanted: &WantedTopic,
        observed: &Observed,
    ) {
        let differing: Vec<(&String, &String)> = wanted
            .config
            .iter()
            .filter(|(key, value)| {
                found
                    .config
                    .get(*key)
                    .is_none_or(|found| !is_same(found, value))
            })
            .collect();
        let compacted = found
            .config
            .get("cleanup.policy")
            .is_some_and(|p| p.contains("compact"));
        let tiers = differing.iter().any(|(key, _)| *key == REMOTE) && wanted.is_tiered();
        let why = if tiers && compacted {
            Some("Kafka keeps compacted topics on the brokers' disks alone".to_owned())
        } else {
            wanted.cannot_be_in(observed).filter(|_| tiers)
        };
        if let Some(why) = why {
            let differences = differences_of(&differing, found);
            let verdict = Verdict::Refused { why };
            let subject = format!("topic {name}");
            self.add_with(
                subject,
                Action::Change,
                differences,
                verdict,
                Change::Nothing,
            );
            return;
        }
        let (shrinking, free): (Vec<_>, Vec<_>) = differing
            .into_iter()
            .partition(|(key, value)| loses(key, found.config.get(*key), value));
        self.set(name, &free, found, Verdict::Free);
        let why = "records that are kept today would be gone".to_owned();
        let flag = Flag::AllowShrink;
        self.set(name, &shrinking, found, Verdict::Guarded { flag, why });
    }

    fn set(
        &mut self,
        name: &str,
        settings: &[(&String, &String)],
        found: &ObservedTopic,
        verdict: Verdict,
    ) {
        if settings.is_empty() {
            return;
        }
        let change = Change::SetConfig {
            topic: name.to_owned(),
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).clone(), (*value).clone()))
                .collect(),
        };
        let differences = differences_of(settings, found);
        self.add_with(
            format!("topic {name}"),
            Action::Change,
            differences,
            verdict,
            change,
        );
    }

    /// How many copies there are, on which brokers, and who leads.
    fn compare_places(
        &mut self,
        name: &str,
        found: &ObservedTopic,
        wanted: &WantedTopic,
        observed: &Observed,
    ) {
        if observed.moving.contains(name) {
            self.notes.push(format!(
                "topic {name}: copies are being moved at this moment"
            ));
            return;
        }
        let moves = Moves::between(found, wanted, observed);
        for broker in &moves.away {
            self.notes.push(format!(
                "topic {name}: broker {broker} has copies and is away"
            ));
        }
        let subject = format!("topic {name}");
        if let Some((difference, why)) = moves.impossible {
            self.refuse(subject, Action::Change, difference, why);
            return;
        }
        for (replicas, differences, verdict) in [
            (
                moves.fewer,
                moves.fewer_differences,
                Verdict::fewer_copies(),
            ),
            (moves.other, moves.other_differences, Verdict::Free),
        ] {
            if replicas.is_empty() {
                continue;
            }
            let topic = name.to_owned();
            let change = Change::Reassign { topic, replicas };
            self.add_with(
                subject.clone(),
                Action::Change,
                differences,
                verdict,
                change,
            );
        }
        if !moves.elect.is_empty() {
            let (topic, partitions) = (name.to_owned(), moves.elect);
            let change = Change::ElectLeaders { topic, partitions };
            self.add(subject, Action::Change, moves.elect_differences, change);
        }
    }

    fn compare_users(&mut self, observed: &Observed, wanted: &Wanted) {
        for (name, user) in &wanted.users {
            let Some(kind) = Scram::of(user.mechanism) else {
                continue;
            };
            let found = observed.users.get(name).and_then(|kinds| kinds.get(&kind));
            let label = user.mechanism.name();
            let told = |iterations: &u32| format!("{iterations} iterations");
            let difference = match found {
                Some(iterations) if *iterations != user.iterations => {
                    Difference::new(label, Some(told(iterations)), Some(told(&user.iterations)))
                }
                Some(_) if observed.other_passwords.contains(name) => {
                    let (found, wanted) = ("another password", "the password of the document");
                    Difference::new(label, Some(found.to_owned()), Some(wanted.to_owned()))
                }
                Some(_) => continue,
                None => Difference::new(label, None, Some(told(&user.iterations))),
            };
            let action = if found.is_some() {
                Action::Change
            } else {
                Action::Create
            };
            let change = Change::SetPassword(Box::new(user.clone()));
            self.add(format!("user {name}"), action, vec![difference], change);
        }
    }

    fn compare_rights(&mut self, observed: &Observed, wanted: &Wanted) {
        let Some(found) = &observed.acls else {
            if !wanted.acls.is_empty() {
                let many = format!("{} rights", wanted.acls.len());
                let difference = Difference::new("rights", None, Some(many));
                let why = "the brokers keep no rights, so anybody may do anything: set authorizer.class.name (wattle kafka render does)";
                self.refuse(
                    "cluster".to_owned(),
                    Action::Create,
                    difference,
                    why.to_owned(),
                );
            }
            return;
        };
        for acl in wanted.acls.difference(found) {
            let difference = Difference::new(&acl.to_string(), None, Some(GRANTED.to_owned()));
            let subject = format!("right of {}", acl.principal);
            self.add(
                subject,
                Action::Create,
                vec![difference],
                Change::Grant(acl.clone()),
            );
        }
        for acl in found.difference(&wanted.acls) {
            if wanted.principals.contains(&acl.principal) {
                self.revoke(acl, "somebody may rely on it");
            }
        }
    }

    fn revoke(&mut self, acl: &Acl, why: &str) {
        let difference = Difference::new(&acl.to_string(), Some(GRANTED.to_owned()), None);
        let subject = format!("right of {}", acl.principal);
        let change = Change::Revoke(acl.clone());
        self.add_with(
            subject,
            Action::Delete,
            vec![difference],
            Verdict::delete(why),
            change,
        );
    }

    fn remove(&mut self, observed: &Observed, wanted: &Wanted) {
        for user in &wanted.gone_users {
            let principal = principal(user);
            let rights = observed
                .acls
                .iter()
                .flatten()
                .filter(|acl| acl.principal == principal);
            let rights: Vec<Acl> = rights.cloned().collect();
            for acl in &rights {
                self.revoke(acl, "the user is to be gone");
            }
            let Some(kinds) = observed.users.get(user) else {
                continue;
            };
            let difference = Difference::new("user", Some("there".to_owned()), None);
            let (user, kinds) = (user.clone(), kinds.keys().copied().collect());
            let subject = format!("user {user}");
            let verdict = Verdict::delete("nobody can log in as this user any more");
            let change = Change::DeleteUser { user, kinds };
            self.add_with(subject, Action::Delete, vec![difference], verdict, change);
        }
        for topic in &wanted.gone_topics {
            if let Some(found) = observed.topics.get(topic) {
                let many = format!("{} partitions", found.partitions.len());
                let difference = Difference::new("topic", Some(many), None);
                let verdict = Verdict::delete("everything in it is lost");
                let change = Change::DeleteTopic(topic.clone());
                let subject = format!("topic {topic}");
                self.add_with(subject, Action::Delete, vec![difference], verdict, change);
            }
        }
    }
}

fn differences_of(settings: &[(&String, &String)], found: &ObservedTopic) -> Vec<Difference> {
    let differences = settings.iter();
    differences
        .map(|(key, value)| {
            Difference::new(key, found.config.get(*key).cloned(), Some((*value).clone()))
        })
        .collect()
}

/// Whether two values of a setting mean the same.
fn is_same(found: &str, wanted: &str) -> bool {
    let words = |text: &str| -> BTreeSet<String> {
        text.split(',')
            .map(|word| word.trim().to_ascii_lowercase())
            .collect()
    };
    match (found.trim().parse::<f64>(), wanted.trim().parse::<f64>()) {
        (Ok(found), Ok(wanted)) => found.total_cmp(&wanted).is_eq(),
        _ => words(found) == words(wanted),
    }
}

/// Whether records that are kept today would go if this setting became `wanted`.
fn loses(key: &str, found: Option<&String>, wanted: &str) -> bool {
    match key {
        "retention.ms" | "retention.bytes" => {
            let limit = |text: &str| match text.trim().parse::<i64>() {
                Ok(limit) if limit >= 0 => limit,
                Ok(_) | Err(_) => i64::MAX,
            };
            found.is_some_and(|found| limit(wanted) < limit(found))
        }
        "cleanup.policy" => true,
        REMOTE => !wanted.eq_ignore_ascii_case("true"),
        _ => false,
    }
}
