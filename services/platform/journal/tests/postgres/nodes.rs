//! Several nodes on one database.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection, Executor};
use trunkline_config::Secret;
use trunkline_journal::{
    Append, AppendError, DocumentKey, Journal, OpenError, PostgresConfig, PostgresInspector, PostgresJournal,
    StoredEvent, contract,
};
use trunkline_types::{EntityAddress, Epoch, ShardId};

use super::support::{database, open, options, raw, until};

async fn nodes(url: &str, n: usize) -> Vec<Arc<dyn Journal>> {
    let mut nodes: Vec<Arc<dyn Journal>> = Vec::new();
    for _ in 0..n {
        nodes.push(Arc::new(open(url).await));
    }
    nodes
}

/// Reads the tail without end, in pages of an odd size, until it has so many events.
async fn follow(journal: Arc<dyn Journal>, events: usize) -> Vec<StoredEvent> {
    let (mut committed, mut read) = (journal.committed(), Vec::<StoredEvent>::new());
    while read.len() < events {
        let page = journal.tail(read.last().map_or(0, |event| event.position), 37).await.unwrap();
        if page.is_empty() {
            // Another node's commits are told within a quarter of a second; a missed one would hang here.
            tokio::time::timeout(Duration::from_secs(20), committed.changed()).await.unwrap().unwrap();
        }
        read.extend(page);
    }
    read
}

/// All nodes go by the server's clock, to the microsecond that it tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_learn_the_servers_clock() {
    let (_server, url) = database();
    let node = open(&url).await;
    let mut connection = raw(&url).await;
    let micros = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let before: i64 = sqlx::query_scalar(micros).fetch_one(&mut connection).await.unwrap();
    let told = node.clock().await.unwrap().as_micros();
    let after: i64 = sqlx::query_scalar(micros).fetch_one(&mut connection).await.unwrap();
    assert!((before..=after).contains(&told), "{before} {told} {after}");
}

/// What begins anew after a restore is another journal to those who kept something of the lost one, once for each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_journal_has_another_identity() {
    let (_server, url) = database();
    let both = nodes(&url, 2).await;
    let mut known = both[0].identity().await.unwrap();
    assert_eq!(both[1].identity().await.unwrap(), known, "one journal, whoever asks");
    for node in &both {
        node.close().await;
    }
    let config =
        PostgresConfig { url: Secret::new(url.clone()), connections: None, patience: None, spacing: None };
    let inspector = PostgresInspector::connect(&config).await.unwrap();
    for _ in 0..2 {
        until("the nodes have left", async || inspector.begin_anew().await.is_ok()).await;
        let node = open(&url).await;
        let now = node.identity().await.unwrap();
        assert_ne!(now, known);
        known = now;
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_many_writers_misses_nothing_and_sees_causes_before_their_effects() {
    const NODES: u64 = 4;
    const WRITERS: u64 = 6;
    const APPENDS: u64 = 40;
    let (_server, url) = database();
    let nodes = nodes(&url, NODES as usize).await;
    let all: Vec<_> = ShardId::all().collect();
    let epoch = nodes[0].seal(&all, "test").await.unwrap()[0].1;
    // A node that writes nothing of its own.
    let reader = Arc::new(open(&url).await);
    let readers = [Arc::clone(&nodes[0]), reader.clone() as Arc<dyn Journal>]
        .map(|journal| tokio::spawn(follow(journal, (NODES * WRITERS * APPENDS * 2) as usize)));
    let mut writers = Vec::new();
    for w in 0..NODES * WRITERS {
        // Each append goes through the next node: a cause is committed by another node than its effect.
        let nodes = nodes.clone();
        writers.push(tokio::spawn(async move {
            let entity = contract::queue(&format!("w{w}"));
            for n in 0..APPENDS {
                let node = &nodes[((w + n) % NODES) as usize];
                node.append(contract::append(&entity, epoch, n * 2, 2)).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for read in readers {
        let read = read.await.unwrap();
        // Within an entity each event is the effect of the one before.
        contract::assert_dense(&read);
        assert_eq!(read.len() as u64, NODES * WRITERS * APPENDS * 2);
    }
    for node in nodes {
        node.close().await;
    }
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_past_a_transaction_that_may_still_commit_below_it() {
    let (_server, url) = database();
    let journal: Arc<dyn Journal> = Arc::new(open(&url).await);
    let (early, late) = (contract::queue("early"), contract::queue("late"));
    let epoch = journal.seal(&[early.shard(), late.shard()], "test").await.unwrap()[0].1;
    // A transaction that has its number, and so its positions, and is in no hurry.
    let mut slow = raw(&url).await;
    let mut slow = slow.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(append_sql(&early, epoch))).execute(&mut *slow).await.unwrap();
    let after = journal.append(contract::append(&late, epoch, 0, 1)).await.unwrap();
    assert_eq!(journal.tail(0, 10).await.unwrap(), [], "the slow one's event comes first, when it comes");
    assert_eq!(*journal.committed().borrow(), 0);
    slow.commit().await.unwrap();
    contract::visible(&journal, after.position).await;
    let shown = journal.tail(0, 10).await.unwrap();
    assert_eq!(shown.iter().map(|event| &event.entity).collect::<Vec<_>>(), [&early, &late]);
    journal.close().await;
}

/// The statement of an append of one event, as a node sends it.
fn append_sql(entity: &EntityAddress, epoch: Epoch) -> String {
    format!(
        "SELECT trunkline.append_v1('{{{}}}', '{{{}}}', '{{{}}}', '{{{}}}', '{{{}}}', '{{0}}', '{{f}}', '{{1}}', '{{1}}', \
         '{{1}}', ARRAY['\\x010178010000000000000000000000000000'::bytea])",
        entity.kind.as_str(),
        entity.tenant,
        entity.id,
        entity.shard().index(),
        epoch.0
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_seal_the_former_owner_writes_nothing_however_busy_it_is() {
    let (_server, url) = database();
    let nodes = nodes(&url, 2).await;
    let shard = ShardId::new(77).unwrap();
    let mut owner = 0;
    let mut epoch = nodes[owner].seal(&[shard], "node0").await.unwrap()[0].1;
    for round in 1..=12_u128 {
        // The old owner writes as fast as it can, pipelined, until it is fenced.
        let busy = tokio::spawn({
            let (journal, entity) = (Arc::clone(&nodes[owner]), contract::call(shard, round));
            async move {
                let mut pending = std::collections::VecDeque::new();
                for n in 0.. {
                    pending.push_back(journal.append(contract::append(&entity, epoch, n, 1)));
                    if pending.len() < 16 {
                        continue;
                    }
                    if let Err(error) = pending.pop_front().unwrap().await {
                        let mut rest = Vec::new();
                        for pending in pending {
                            rest.push(pending.await);
                        }
                        return (error, rest);
                    }
                }
                unreachable!()
            }
        });
        let watched: &dyn Journal = &*nodes[owner];
        until("the owner writes", async || {
            watched.load_entity(&contract::call(shard, round)).await.unwrap().count > 40
        })
        .await;
        owner = 1 - owner;
        let sealed = nodes[owner].seal_if(shard, epoch, &format!("node{owner}")).await.unwrap();
        let count = nodes[owner].load_entity(&contract::call(shard, round)).await.unwrap().count;
        let fenced = tokio::time::timeout(Duration::from_secs(30), busy).await;
        let (error, rest) = fenced.expect("it is fenced, and does not write for ever").unwrap();
        assert_eq!(error, AppendError::Fenced { current: sealed });
        assert!(
            rest.iter().all(|outcome| *outcome == Err(AppendError::Fenced { current: sealed })),
            "{rest:?}"
        );
        let history = nodes[owner].load_entity(&contract::call(shard, round)).await.unwrap();
        assert_eq!(history.count, count, "written after the seal was answered");
        epoch = sealed;
    }
    let events = nodes[0].replay_shard(shard, 0, 1 << 20).await.unwrap();
    contract::assert_dense(&events);
    assert!(events.is_sorted_by_key(|event| event.epoch), "an older epoch behind a newer one");
    let seals = nodes[0].epochs().await.unwrap();
    assert_eq!((seals.len(), seals[0].epoch), (1, epoch));
    for node in nodes {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_seen_by_other_nodes_at_once_and_two_writers_do_not_overwrite_each_other() {
    let (_server, url) = database();
    let nodes = nodes(&url, 2).await;
    let key = DocumentKey::new(&contract::tenant(), "queue", "support");
    let mut elsewhere = nodes[1].documents_revision();
    let started = tokio::time::Instant::now();
    let revision = nodes[0].put_document(&key, serde_json::json!({"n": 1}), Some(0)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), elsewhere.wait_for(|known| *known >= revision))
        .await
        .unwrap()
        .unwrap();
    assert!(started.elapsed() < Duration::from_millis(1_500), "notified, not found by looking every 2 s");
    let body = |n: u64| serde_json::json!({ "n": n });
    let (a, b) = tokio::join!(
        nodes[0].put_document(&key, body(2), Some(revision)),
        nodes[1].put_document(&key, body(3), Some(revision))
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let mut many = Vec::new();
    for n in 0..40 {
        let (node, key) =
            (Arc::clone(&nodes[n % 2]), DocumentKey::new(&contract::tenant(), "agent", n.to_string()));
        many.push(tokio::spawn(async move {
            node.put_document(&key, serde_json::json!({}), None).await.unwrap()
        }));
    }
    let mut revisions = Vec::new();
    for one in many {
        revisions.push(one.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 40, "each has a revision of its own");
    for node in nodes {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_make_the_schema_once() {
    let (_server, url) = database();
    let opened = futures::future::join_all((0..6).map(|_| open(&url))).await;
    let entity = contract::queue("support");
    let epoch = opened[0].seal(&[entity.shard()], "test").await.unwrap()[0].1;
    for (n, journal) in (0..).zip(&opened) {
        journal.append(contract::append(&entity, epoch, n, 1)).await.unwrap();
    }
    for journal in &opened {
        journal.close().await;
    }
}

#[tokio::test]
async fn what_cannot_hold_the_journal_is_refused_with_a_remedy() {
    let (_server, url) = database();
    open(&url).await.close().await;
    let mut connection = raw(&url).await;
    let add = "INSERT INTO trunkline.schema_version (version, least) VALUES (2, 1)";
    connection.execute(add).await.unwrap();
    // A newer schema that this program may still use.
    open(&url).await.close().await;
    connection.execute("INSERT INTO trunkline.schema_version (version, least) VALUES (3, 3)").await.unwrap();
    let error = PostgresJournal::open(options(&url)).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 3, known: 1, .. }), "{error:?}");
    let wrong = url.replace(":test@", ":hunter2@");
    let error = PostgresJournal::open(options(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains("journal.postgres.url") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn recovery_reads_only_what_is_live() {
    const OLD: u64 = 100_000;
    let (_server, url) = database();
    let journal: Arc<dyn Journal> = Arc::new(open(&url).await);
    let shards: Vec<_> = (1_024..1_088).map(|n| ShardId::new(n).unwrap()).collect();
    let epoch = journal.seal(&shards, "test").await.unwrap()[0].1;
    let mut live = Vec::new();
    for (n, shard) in (0..).zip(&shards) {
        let entity = contract::call(*shard, n);
        journal.append(contract::append(&entity, epoch, 0, 3)).await.unwrap();
        live.push(entity);
    }
    let mut connection = raw(&url).await;
    let old = format!(
        "INSERT INTO trunkline.entity SELECT nextval('trunkline.entity_id'), 'call', 'default', 'old' || n, \
             1024 + n % 64, true FROM generate_series(1, {OLD}) n; \
         INSERT INTO trunkline.event SELECT (e.id << 4) + k, e.shard, 1000 + (e.id << 2) + k, 1, e.id, k * 2, 2, '\\x01'::bytea \
             FROM trunkline.entity e, generate_series(1, 3) k WHERE e.finished; ANALYZE trunkline.entity, trunkline.event"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(old)).execute(&mut connection).await.unwrap();
    only_indexes_are_read(&journal, &mut connection, &live, epoch).await;
    let started = tokio::time::Instant::now();
    assert_eq!(journal.live_entities(live[0].kind, &shards).await.unwrap(), live);
    let listed = started.elapsed();
    for entity in &live {
        assert_eq!(journal.load_entity(entity).await.unwrap().count, 4);
    }
    let took = started.elapsed();
    println!("64 live of {OLD} entities: listed in {listed:?}, rebuilt one after the other in {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT kind, tenant, name FROM trunkline.entity \
         WHERE kind = 'call' AND shard = ANY ('{1024,1025,1087}') AND NOT finished ORDER BY id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(plan.iter().any(|line| line.contains("entity_live")), "{plan:#?}");
    journal.close().await;
}

/// Appends go to their rows, however large the tables have become.
async fn only_indexes_are_read(
    journal: &Arc<dyn Journal>,
    connection: &mut sqlx::PgConnection,
    live: &[EntityAddress],
    epoch: Epoch,
) {
    async fn scans(connection: &mut sqlx::PgConnection) -> (i64, i64) {
        let sql = "SELECT sum(seq_scan)::bigint, sum(idx_scan)::bigint FROM pg_stat_user_tables \
                   WHERE schemaname = 'trunkline' AND relname IN ('entity', 'event')";
        sqlx::query_as(sql).fetch_one(connection).await.unwrap()
    }
    // What this connection has done itself is counted first.
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let (whole, indexed) = scans(connection).await;
    for entity in live {
        journal.append(contract::append(entity, epoch, 3, 1)).await.unwrap();
    }
    until("the server has counted", async || scans(connection).await.1 > indexed + 100).await;
    assert_eq!(scans(connection).await.0, whole, "a table was read from end to end");
}

#[tokio::test]
async fn a_batch_with_one_of_everything_is_decided_one_by_one() {
    let (_server, url) = database();
    let journal: Arc<dyn Journal> = Arc::new(open(&url).await);
    let (ours, other) = (contract::queue("a"), contract::queue("b"));
    let epoch = journal.seal(&[ours.shard()], "test").await.unwrap()[0].1;
    journal.append(contract::append(&ours, epoch, 0, 4)).await.unwrap();
    let nul = Append {
        entity: EntityAddress { id: "a\0b".to_owned(), ..ours.clone() },
        ..contract::append(&ours, epoch, 0, 1)
    };
    let sent = [
        contract::append(&ours, epoch, 4, 2),
        contract::append(&other, epoch, 0, 1),
        contract::append(&ours, epoch, 6, 1),
        nul,
        contract::append(&ours, epoch, 6, 1),
        contract::append(&ours, epoch, 7, 1),
    ]
    .map(|append| journal.append(append));
    let mut outcomes = Vec::new();
    for pending in sent {
        outcomes.push(pending.await.map(|appended| (appended.first_seq, appended.last_seq)));
    }
    assert_eq!(outcomes[0], Ok((5, 6)));
    assert_eq!(outcomes[1], Err(AppendError::Fenced { current: Epoch(0) }));
    assert_eq!(outcomes[2], Ok((7, 7)));
    assert!(matches!(outcomes[3], Err(AppendError::Invalid(_))));
    assert_eq!(outcomes[4], Err(AppendError::Conflict { actual: 7 }));
    assert_eq!(outcomes[5], Ok((8, 8)));
    journal.close().await;
}
