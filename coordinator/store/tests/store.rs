//! The store's promises, on real files.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails the test that took it"
)]

use std::path::Path;

use wattle_api::Timestamp;
use wattle_api::notice::{AuditAction, AuditRecord};
use wattle_api::token::TokenScope;
use wattle_api::topology::{Cause, Entity, EntityKey, Op, PrefixEntity, TopologyEvent};
use wattle_fleet::Difference;
use wattle_fleet::difference::Evidence;
use wattle_model::{NetworkId, NodeId};
use wattle_store::{Change, Claim, Store, StoreError, TokenFound, Tokens};

const NETWORK: NetworkId = NetworkId(7);
const NOW: Timestamp = Timestamp::from_millis(1_795_385_280_000);

async fn open(directory: &Path) -> Result<Store, StoreError> {
    Store::open(&directory.join("coordinator.db"), NETWORK, "lab", "c1").await
}

fn prefix(n: u64, origin: u64) -> Entity {
    let prefix = format!("10.{}.{}.0/24", n / 256 % 256, n % 256)
        .parse()
        .unwrap();
    Entity::Prefix(PrefixEntity {
        prefix,
        origin: NodeId(origin),
        origin_name: None,
    })
}

fn difference(before: Option<Entity>, after: Option<Entity>) -> Difference {
    let key = after.as_ref().or(before.as_ref()).unwrap().key();
    let evidence = Evidence {
        reporter: Some(NodeId(1)),
        ..Evidence::default()
    };
    Difference {
        key,
        before,
        after,
        cause: Cause::PrefixAnnounced,
        evidence,
        site: None,
    }
}

fn announce(numbers: std::ops::Range<u64>) -> Change {
    let differences = numbers
        .map(|n| difference(None, Some(prefix(n, 1))))
        .collect();
    Change {
        differences,
        ..Change::default()
    }
}

async fn events(store: &Store) -> Vec<TopologyEvent> {
    let rows = store.outbox_after(0, 100_000).await.unwrap();
    rows.iter().map(|row| row.event().unwrap()).collect()
}

#[tokio::test]
async fn state_and_events_are_written_together_and_numbers_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    assert_eq!((store.term(), store.last_seq()), (1, 0));
    let committed = store.commit(&announce(0..3), NOW).await.unwrap();
    assert_eq!((committed.last_seq, committed.events), (3, 3));
    store.close().await;

    let store = open(directory.path()).await.unwrap();
    assert_eq!((store.term(), store.last_seq()), (2, 3));
    let moved = difference(Some(prefix(0, 1)), Some(prefix(0, 2)));
    let gone = difference(Some(prefix(1, 1)), None);
    let change = Change {
        differences: vec![moved, gone],
        ..Change::default()
    };
    store.commit(&change, NOW).await.unwrap();

    let seen: Vec<(u64, u64, Op)> = events(&store)
        .await
        .iter()
        .map(|e| (e.id.term, e.id.seq, e.op))
        .collect();
    let expected = [
        (1, 1, Op::Create),
        (1, 2, Op::Create),
        (1, 3, Op::Create),
        (2, 4, Op::Update),
        (2, 5, Op::Delete),
    ];
    assert_eq!(seen, expected);
    let state = store.state().await.unwrap();
    assert_eq!(state.entities, [prefix(0, 2), prefix(2, 1)]);
    assert_eq!(state.seq, 5);
}

#[tokio::test]
async fn of_64_parallel_joins_with_one_token_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let hash = [5; 32];
    let expires_at = Timestamp::from_millis(NOW.as_millis() + 1_000);
    store
        .tokens()
        .create(hash, &TokenScope::default(), NOW, expires_at)
        .await
        .unwrap();
    let mut joins = tokio::task::JoinSet::new();
    for node in 0..64 {
        let store = store.clone();
        joins.spawn(async move {
            let claims = vec![Claim {
                hash,
                node: NodeId(node),
            }];
            let change = Change {
                claims,
                ..announce(node..node + 1)
            };
            store.commit(&change, NOW).await
        });
    }
    let outcomes = joins.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let losers = outcomes
        .iter()
        .filter(|o| matches!(o, Err(StoreError::TokenLost)))
        .count();
    assert_eq!(losers, 63);
    assert_eq!(events(&store).await.len(), 1);
    assert_eq!(store.last_seq(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_opens_a_fresh_database_at_the_same_moment_finds_its_tables() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coordinator.db");
        let beside: Vec<_> = (0..6)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { Tokens::open(&path).await.map(|_| ()) })
            })
            .collect();
        open(directory.path()).await.unwrap();
        for opened in beside {
            opened.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_token_is_good_until_it_is_used_expired_or_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let tokens = store.tokens();
    let later = Timestamp::from_millis(NOW.as_millis() + 1_000);
    let scope = TokenScope {
        name: Some("db-3".parse().unwrap()),
        ..TokenScope::default()
    };
    for n in 1..=3 {
        tokens.create([n; 32], &scope, NOW, later).await.unwrap();
    }
    assert_eq!(
        tokens.find([1; 32], NOW).await.unwrap(),
        TokenFound::Good(scope)
    );
    assert_eq!(
        tokens.find([1; 32], later).await.unwrap(),
        TokenFound::Expired(later)
    );
    assert_eq!(
        tokens.find([9; 32], NOW).await.unwrap(),
        TokenFound::Unknown
    );
    let claims = |n: u8| {
        vec![Claim {
            hash: [n; 32],
            node: NodeId(4),
        }]
    };
    store
        .commit(
            &Change {
                claims: claims(1),
                ..Change::default()
            },
            NOW,
        )
        .await
        .unwrap();
    assert!(
        matches!(tokens.find([1; 32], NOW).await.unwrap(), TokenFound::Used(u) if u.node == NodeId(4))
    );
    let late = store
        .commit(
            &Change {
                claims: claims(2),
                ..Change::default()
            },
            later,
        )
        .await;
    assert!(matches!(late, Err(StoreError::TokenLost)));
    let listed = tokens.list().await.unwrap();
    assert_eq!(listed.len(), 3);
    assert!(tokens.withdraw("030303030303").await.unwrap());
    assert!(
        !tokens.withdraw("010101010101").await.unwrap(),
        "a used token stays for the record"
    );
    assert_eq!(
        tokens.find([3; 32], NOW).await.unwrap(),
        TokenFound::Unknown
    );
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).await.unwrap();
    let refusal = open(directory.path()).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Locked(_)), "{refusal}");
    first.close().await;
    assert_eq!(open(directory.path()).await.unwrap().term(), 2);
}

#[tokio::test]
async fn a_coordinator_whose_term_is_over_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let old = open(directory.path()).await.unwrap();
    std::fs::remove_file(directory.path().join("coordinator.lock")).unwrap();
    let new = open(directory.path()).await.unwrap();
    assert!(matches!(
        old.commit(&announce(0..1), NOW).await,
        Err(StoreError::Fenced(1))
    ));
    new.commit(&announce(0..1), NOW).await.unwrap();
    assert_eq!(events(&new).await.len(), 1);
}

#[tokio::test]
async fn a_database_of_another_network_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.unwrap().close().await;
    let path = directory.path().join("coordinator.db");
    let refusal = Store::open(&path, NetworkId(8), "lab", "c1")
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, StoreError::OtherNetwork { .. }),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("coordinator.db"), [b'x'; 8192]).unwrap();
    let refusal = open(directory.path()).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Corrupt { .. }), "{refusal}");
    let text = refusal.to_string();
    assert!(
        text.contains("is damaged") && text.contains("restore coordinator.db"),
        "{text}"
    );
}

#[tokio::test]
async fn a_database_with_damaged_pages_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    store.commit(&announce(0..100), NOW).await.unwrap();
    store.close().await;
    let path = directory.path().join("coordinator.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // Everything below the schema's page.
    bytes[4096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let refusal = open(directory.path()).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Corrupt { .. }), "{refusal}");
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coordinator.db");
    open(directory.path()).await.unwrap().close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, TRUE, x'00', 1)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    for refusal in [
        open(directory.path()).await.unwrap_err(),
        wattle_store::Tokens::open(&path).await.unwrap_err(),
    ] {
        let text = refusal.to_string();
        assert!(
            text.contains("step 9999") && text.contains("install that version"),
            "{text}"
        );
    }
}

/// Run by root it is the story of `sudo wattle-coordinator token create` before the first start.
#[tokio::test]
async fn every_file_belongs_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const COORDINATOR: u32 = 65_534;
    let directory = tempfile::tempdir().unwrap();
    if directory.path().metadata().unwrap().uid() == 0 {
        chown(directory.path(), Some(COORDINATOR), Some(COORDINATOR)).unwrap();
    }
    let owner = directory.path().metadata().unwrap().uid();
    let store = open(directory.path()).await.unwrap();
    store.commit(&announce(0..1), NOW).await.unwrap();
    let entries: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(entries.len() >= 3, "database, its log, lock");
    for entry in entries {
        let entry = entry.unwrap();
        let file = entry.metadata().unwrap();
        assert_eq!(file.uid(), owner, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn trimmed_numbers_are_not_given_again_and_followers_are_woken() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let mut newest = store.subscribe();
    store.commit(&announce(0..10), NOW).await.unwrap();
    newest.changed().await.unwrap();
    assert_eq!(*newest.borrow_and_update(), 10);
    assert_eq!(store.trim_outbox(10, 4).await.unwrap(), 4);
    assert_eq!(store.first_seq().await.unwrap(), 5);
    assert_eq!(store.trim_outbox(10, 100).await.unwrap(), 6);
    assert_eq!(store.first_seq().await.unwrap(), 11);
    store.close().await;
    let store = open(directory.path()).await.unwrap();
    assert_eq!(
        store.commit(&announce(10..11), NOW).await.unwrap().last_seq,
        11
    );
}

#[tokio::test]
async fn alerts_and_audit_records_are_dropped_once_written_and_counted_where_too_many_wait() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let record = AuditRecord {
        action: AuditAction::OutboxDropped,
        actor: "coordinator".to_owned(),
        subject: "kafka".to_owned(),
        detail: String::new(),
        revision: None,
        seq: 0,
        term: 1,
        network: NETWORK,
        ts: NOW,
    };
    for _ in 0..10 {
        store.note(&record).await.unwrap();
    }
    let numbers = async || {
        let waiting = store.notices_after(0, 100).await.unwrap();
        waiting.iter().map(|notice| notice.nr).collect::<Vec<_>>()
    };
    assert_eq!(store.trim_notices(4, 100).await.unwrap(), 0);
    assert_eq!(numbers().await, [5, 6, 7, 8, 9, 10]);
    assert_eq!(store.trim_notices(5, 2).await.unwrap(), 3);
    assert_eq!(numbers().await, [9, 10]);
}

#[tokio::test]
async fn several_changes_of_one_entity_in_one_commit_leave_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let (one, two) = (prefix(0, 1), prefix(0, 2));
    let differences = vec![
        difference(None, Some(one.clone())),
        difference(Some(one.clone()), None),
        difference(None, Some(two.clone())),
    ];
    store
        .commit(
            &Change {
                differences,
                ..Change::default()
            },
            NOW,
        )
        .await
        .unwrap();
    assert_eq!(
        store.state().await.unwrap().entities,
        std::slice::from_ref(&two)
    );
    let key: EntityKey = "prefix:10.0.0.0/24".parse().unwrap();
    assert_eq!(two.key(), key);
    assert_eq!(events(&store).await.len(), 3);
}

#[tokio::test]
async fn batches_of_events_reach_the_disk_faster_than_2000_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let start = std::time::Instant::now();
    for batch in 0..40 {
        store
            .commit(&announce(batch * 250..(batch + 1) * 250), NOW)
            .await
            .unwrap();
    }
    let rate = 10_000.0 / start.elapsed().as_secs_f64();
    assert!(rate > 2_000.0, "{rate:.0} events/s");
}

#[tokio::test]
async fn the_newest_event_of_a_time_is_found_until_it_is_trimmed_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let at = |seconds: u64| Timestamp::from_millis(NOW.as_millis() + seconds * 1_000);
    assert_eq!(store.seq_at(at(0)).await.unwrap(), None);
    // Events 1 to 3 at 0 s, 4 to 6 at 10 s, ... 28 to 30 at 90 s.
    for step in 0..10 {
        let change = announce(step * 3..step * 3 + 3);
        store.commit(&change, at(step * 10)).await.unwrap();
    }
    for (seconds, seq) in [(0, 3), (9, 3), (10, 6), (45, 15), (90, 30), (1_000, 30)] {
        assert_eq!(
            store.seq_at(at(seconds)).await.unwrap(),
            Some(seq),
            "{seconds}"
        );
    }
    let before = Timestamp::from_millis(NOW.as_millis() - 1);
    assert_eq!(store.seq_at(before).await.unwrap(), None);
    store.trim_outbox(10, 100).await.unwrap();
    assert_eq!(store.seq_at(at(20)).await.unwrap(), None);
    assert_eq!(store.seq_at(at(30)).await.unwrap(), Some(12));
}
