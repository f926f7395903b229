//! The journal's database, and its clock against this machine's.

use std::time::Duration;

use trunkline_journal::{PostgresConfig, PostgresInspector, PostgresReport};

use super::{
    Subject,
    finding::{Area, Level},
};

/// The oldest version that is tested.
const LEAST: i32 = 15;
/// Connections that a node holds beside `journal.postgres.connections` (8 unless told).
const BESIDE: u32 = 3;
const POOL: u32 = 8;
/// Two commits lie between an agent who is free and the ring.
const SLOW_COMMIT: Duration = Duration::from_millis(20);
const TOO_SLOW_COMMIT: Duration = Duration::from_millis(200);
/// A transaction of somebody else holds the tail of the journal back.
const LONG_TRANSACTION: Duration = Duration::from_secs(30);

/// Asks PostgreSQL, when the journal is there. `nodes`: how many nodes the cluster has, as far as known.
pub async fn check(subject: &Subject, nodes: usize) -> (Option<Area>, Option<f64>) {
    let Some(config) = subject.config.journal.as_ref().and_then(|journal| journal.postgres.as_ref()) else {
        return (None, None);
    };
    let mut area = Area::new("postgresql");
    let report = match PostgresInspector::connect(config).await {
        Ok(inspector) => inspector.report().await,
        Err(error) => Err(error),
    };
    match report {
        Ok(report) => {
            server(&mut area, &report);
            durability(&mut area, &report);
            schema(&mut area, &report);
            room(&mut area, config, &report, nodes);
            speed(&mut area, &report);
            (Some(area), Some(report.clock_offset_s))
        }
        Err(error) => {
            let why = "without the journal nothing new can be decided: calls that are up go on, new ones wait or are refused";
            area.fail(
                "journal.postgres",
                error.to_string(),
                why,
                "start the server, open the way to it, and correct journal.postgres.url",
            );
            (Some(area), None)
        }
    }
}

fn server(area: &mut Area, report: &PostgresReport) {
    let found = format!("PostgreSQL {} at {}", report.version, report.name);
    if report.standby {
        area.fail(
            "server",
            format!("{found} is a standby"),
            "a standby cannot be written",
            "give the address of the primary",
        );
    } else if report.major < LEAST {
        let why = "older versions were never tried, and get no corrections any more";
        area.fail("server", found, why, "upgrade the server to PostgreSQL 15 or newer");
    } else {
        area.ok("server", found);
    }
    if report.encoding != "UTF8" {
        let why = "names that people use cannot be kept in it";
        area.fail("encoding", report.encoding.clone(), why, "make the database anew with ENCODING 'UTF8'");
    }
    if !report.encrypted
        && !report.name.starts_with("127.")
        && !report.name.starts_with("localhost")
        && !report.name.starts_with('/')
    {
        let why = "numbers, names and decisions cross the network in the clear";
        area.warn(
            "encryption",
            "none",
            why,
            "add ?sslmode=verify-full&sslrootcert=FILE to journal.postgres.url, unless the network is closed",
        );
    }
}

fn durability(area: &mut Area, report: &PostgresReport) {
    for (name, on) in [("fsync", report.fsync), ("full_page_writes", report.full_page_writes)] {
        if !on {
            let why = "a crash of the server loses or damages what was committed: places, answers, records";
            area.fail(name, "off", why, &format!("set {name} = on in postgresql.conf"));
        }
    }
    let standbys = &report.synchronous_standbys;
    let setting = format!("synchronous_commit = {}", report.synchronous_commit);
    if report.synchronous_commit == "off" {
        let why = "nodes ask for `on` themselves, but what other programs write there may be lost";
        area.warn("durability", setting, why, "set synchronous_commit = on");
    } else if standbys.is_empty() {
        let why = "when this server's disk is lost, so is what was committed after the last backup";
        let remedy = "run a standby and name it in synchronous_standby_names, or archive the WAL (deploy/backup/README.md)";
        area.at(
            if report.archiving == "on" { Level::Ok } else { Level::Warn },
            "durability",
            format!("{setting}, no synchronous standby, archiving {}", report.archiving),
            why,
            remedy,
        );
    } else if report.standbys_in_sync == 0 {
        let why = "every commit waits for a standby that is not there";
        area.fail(
            "durability",
            format!("{setting}, {standbys} wanted, none connected"),
            why,
            "start the standby, or empty synchronous_standby_names",
        );
    } else {
        area.ok("durability", format!("{setting}, {} synchronous standby", report.standbys_in_sync));
    }
    if report.archiving.starts_with("failing") {
        let why = "WAL piles up until the disk is full, and a backup cannot be brought up to date";
        area.fail(
            "archiving",
            report.archiving.clone(),
            why,
            "mend archive_command; pg_stat_archiver names the file",
        );
    }
}

fn schema(area: &mut Area, report: &PostgresReport) {
    match report.schema {
        Some(schema) if schema.least > schema.known => {
            let found = format!("version {}, this program knows {}", schema.version, schema.known);
            area.fail(
                "schema",
                found,
                "a newer program has changed the journal",
                "run that version of trunkline, or a newer one",
            );
        }
        Some(schema) if schema.version < schema.known => {
            area.ok(
                "schema",
                format!(
                    "version {}; the first node of this version makes it {}",
                    schema.version, schema.known
                ),
            );
        }
        Some(schema) => area.ok("schema", format!("version {}", schema.version)),
        None if report.may_create => area.ok("schema", "not made yet; the first node makes it"),
        None => area.fail(
            "schema",
            "not made yet, and this user may not make it",
            "the node cannot start",
            "as the database's owner: GRANT CREATE ON DATABASE … TO the user of journal.postgres.url",
        ),
    }
}

fn room(area: &mut Area, config: &PostgresConfig, report: &PostgresReport, nodes: usize) {
    let each = config.connections.unwrap_or(POOL) + BESIDE;
    // A node that restarts may hold twice as many for a moment.
    let wanted = i64::from(each) * (i64::try_from(nodes).unwrap_or(i64::MAX / 1_000) + 1);
    let others = i64::from(report.connections - report.node_connections);
    let found = format!(
        "{} of {} are taken, {} of them by nodes; {nodes} nodes want {each} each",
        report.connections, report.max_connections, report.node_connections
    );
    let why = "a node that gets no connection cannot start, or decides late";
    let remedy = "raise max_connections, or lower journal.postgres.connections";
    let level = match i64::from(report.max_connections) - others {
        left if left < i64::from(each) * i64::try_from(nodes).unwrap_or(1) => Level::Fail,
        left if left < wanted => Level::Warn,
        _ => Level::Ok,
    };
    area.at(level, "connections", found, why, remedy);
    if report.oldest_transaction > LONG_TRANSACTION {
        area.warn(
            "transactions",
            format!("one has been open for {} s", report.oldest_transaction.as_secs()),
            "records and boards show nothing that came after it began to write",
            "end it: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start",
        );
    }
    if report.prepared > 0 {
        let why = "records and boards show nothing that came after they were prepared";
        area.warn(
            "transactions",
            format!("{} are prepared and not ended", report.prepared),
            why,
            "COMMIT PREPARED or ROLLBACK PREPARED each of pg_prepared_xacts",
        );
    }
}

fn speed(area: &mut Area, report: &PostgresReport) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let Some(commit) = report.commit else {
        return area.ok(
            "commit",
            format!("round trip {:.1} ms; this user may not measure a commit", ms(report.round_trip)),
        );
    };
    let found = format!("{:.1} ms, of which the round trip is {:.1} ms", ms(commit), ms(report.round_trip));
    let why = "two commits lie between an agent who becomes free and the ring at their desk";
    let remedy = "put the WAL on a disk with a fast fsync (pg_test_fsync), and the server near the nodes";
    let level = match commit {
        commit if commit > TOO_SLOW_COMMIT => Level::Fail,
        commit if commit > SLOW_COMMIT => Level::Warn,
        _ => Level::Ok,
    };
    area.at(level, "commit", found, why, remedy);
}
