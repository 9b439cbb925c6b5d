//! What the engine says besides topology events: alerts that follow from them, and who did what.

use wattle_api::notice::{Alert, AuditAction, AuditRecord};
use wattle_fleet::{Alerts, Topology};
use wattle_model::{Instant, NetworkId, NodeId};
use wattle_store::StoreError;

use super::Engine;
use crate::clock::wall;

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Author {
    /// `admin`, `node:<id>`, or `coordinator`.
    pub(crate) actor: String,
    /// The Git revision that asks for it.
    pub(crate) revision: Option<String>,
}

impl Author {
    /// A node that acts for itself.
    pub(crate) fn node(node: NodeId) -> Self {
        Self::without_revision(format!("node:{node}"))
    }

    fn coordinator() -> Self {
        Self::without_revision("coordinator".to_owned())
    }

    const fn without_revision(actor: String) -> Self {
        Self {
            actor,
            revision: None,
        }
    }
}

/// Before anything was read back.
pub(super) fn no_alerts(network: NetworkId) -> Alerts {
    Alerts::recover(network, [], |_| None, Instant::NEVER)
}

/// The alerts that were raised, as the topology has them.
pub(super) fn alerts_of(
    network: NetworkId,
    raised: Vec<Alert>,
    topology: &Topology,
    now: Instant,
) -> Alerts {
    Alerts::recover(network, raised, |key| topology.entity(key), now)
}

impl Engine {
    /// Alerts that follow from what is pending, and those whose time has come.
    pub(super) fn watch(&mut self) {
        let (now, wall) = (self.clock.now(), wall());
        let members = &self.members;
        let is_member = |node| members.member(node).is_some();
        let differences = &self.pending.change.differences;
        self.alerts.observe(differences, is_member, now, wall);
        let told = self.alerts.handle_timeout(now, wall, self.store.last_seq());
        for alert in &told {
            tracing::info!(id = alert.id, state = ?alert.state, detail = alert.detail, suppressed = alert.suppressed, "Alert");
        }
        self.pending.change.alerts.extend(told);
    }

    /// Notes who did what, together with what it did.
    pub(super) fn note(
        &mut self,
        action: AuditAction,
        by: &Author,
        subject: String,
        detail: String,
    ) {
        let record = self.audit(action, by, subject, detail);
        self.pending.change.audits.push(record);
    }

    pub(super) async fn note_start(&mut self) -> Result<(), StoreError> {
        let (subject, detail) = (
            "network".to_owned(),
            format!("version {}", env!("CARGO_PKG_VERSION")),
        );
        let record = self.audit(
            AuditAction::CoordinatorStarted,
            &Author::coordinator(),
            subject,
            detail,
        );
        self.store.note(&record).await
    }

    fn audit(
        &self,
        action: AuditAction,
        by: &Author,
        subject: String,
        detail: String,
    ) -> AuditRecord {
        AuditRecord {
            action,
            actor: by.actor.clone(),
            subject,
            detail,
            revision: by.revision.clone(),
            seq: self.store.last_seq(),
            term: self.store.term(),
            network: self.network.id,
            ts: wall(),
        }
    }
}
