//! Connections: how they are made and set up, what the server must be, the schema and its versions.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tokio::time::timeout;

use crate::OpenError;

/// The schema by versions; each entry leads from the version before it. Never changed once released, only added to: nodes
/// of the version before must be able to go on. The number is the least schema version that a program must know to use the
/// database after it.
const MIGRATIONS: &[(i32, &str)] = &[(1, include_str!("1.sql"))];
/// The newest schema version that this program makes.
pub(super) const KNOWN_SCHEMA: usize = MIGRATIONS.len();
/// A number that nobody had before, as an expression.
macro_rules! drawn {
    () => {
        "('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint & 9223372036854775807"
    };
}
/// A journal that has no identity gets one; see [`Journal::identity`](crate::Journal::identity).
const IDENTIFY: &str = concat!(
    "INSERT INTO trunkline.meta (name, value) VALUES ('identity', ",
    drawn!(),
    ") ON CONFLICT (name) DO NOTHING"
);
/// It gets another one.
pub(super) const IDENTIFY_ANEW: &str = concat!(
    "INSERT INTO trunkline.meta AS known (name, value) VALUES ('identity', ",
    drawn!(),
    ") ON CONFLICT (name) DO UPDATE SET value = excluded.value"
);
/// "trunklin": nodes that start together migrate one by one.
const MIGRATION_LOCK: i64 = 0x7472_756e_6b6c_696e;
/// The first version with everything that the functions use (`pg_current_xact_id` and friends came with 13).
const LEAST_SERVER: i32 = 13;
/// Time to make a connection, and for all of a connection's set-up.
const CONNECT: Duration = Duration::from_secs(3);
/// The server gives a statement up after this long; the client a little later.
const STATEMENT: Duration = Duration::from_secs(5);
/// The client's patience with a statement that the server should have given up.
pub(super) const ANSWER: Duration = Duration::from_secs(8);

/// One PostgreSQL database.
#[derive(Debug, Clone)]
pub(super) struct Server {
    options: PgConnectOptions,
    /// `host:port/database`, for messages: a URL may hold a password.
    pub(super) name: String,
}

impl Server {
    pub(super) fn new(url: &str, application: &str) -> Result<Self, OpenError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| OpenError::Url { reason: error.to_string() })?
            .application_name(application)
            .disable_statement_logging();
        let database = options.get_database().unwrap_or(options.get_username());
        let name = format!("{}:{}/{database}", options.get_host(), options.get_port());
        Ok(Self { options, name })
    }

    pub(super) fn unreachable(&self, source: sqlx::Error) -> OpenError {
        OpenError::Unreachable { server: self.name.clone(), source }
    }

    fn unfit(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Server { server: self.name.clone(), reason: reason.into() }
    }

    /// A connection that is set up for short statements.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let made = async {
            let mut connection = self.options.connect().await?;
            set_up(&mut connection).await?;
            Ok(connection)
        };
        timeout(CONNECT, made).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// The writer's connection. Its one large statement is planned once, for small batches of large tables, whatever the
    /// server's statistics say.
    pub(super) async fn writer(&self) -> Result<PgConnection, sqlx::Error> {
        let made = async {
            let mut connection = self.connect().await?;
            connection
                .execute(
                    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
                     SET enable_mergejoin = off",
                )
                .await?;
            sqlx::query("SELECT trunkline.rebase_v1()").execute(&mut connection).await?;
            Ok(connection)
        };
        timeout(CONNECT, made).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Connections for everything else.
    pub(super) fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT)
            .max_lifetime(Duration::from_secs(3_600))
            .after_connect(|connection, _| Box::pin(set_up(connection)))
            .connect_lazy_with(self.options.clone())
    }

    /// Looks whether the server will do, and brings the schema up to date.
    pub(super) async fn prepare(&self) -> Result<(), OpenError> {
        let mut connection = self.connect().await.map_err(|error| self.unreachable(error))?;
        self.inspect(&mut connection).await?;
        let locked = async {
            // A migration may take longer than a statement of every day.
            connection.execute("SET statement_timeout = '60s'").await.map_err(|e| self.unreachable(e))?;
            sqlx::query("SELECT pg_advisory_lock($1)")
                .bind(MIGRATION_LOCK)
                .execute(&mut connection)
                .await
                .map_err(|e| self.unreachable(e))?;
            self.migrate(&mut connection).await
        };
        // The lock goes with the connection.
        let migrated = locked.await;
        let _ = connection.close().await;
        migrated
    }

    async fn inspect(&self, connection: &mut PgConnection) -> Result<(), OpenError> {
        const SQL: &str = "SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), \
                           current_setting('fsync') = 'on', current_setting('server_encoding')";
        let row = sqlx::query(SQL).fetch_one(connection).await.map_err(|e| self.unreachable(e))?;
        let read = |e: sqlx::Error| self.unreachable(e);
        let version: i32 = row.try_get(0).map_err(read)?;
        if version < LEAST_SERVER {
            return Err(self.unfit(format!(
                "it is PostgreSQL {version}, {LEAST_SERVER} or newer is needed: upgrade the server"
            )));
        }
        if row.try_get(1).map_err(read)? {
            return Err(self.unfit("it is a standby and cannot be written: give the address of the primary"));
        }
        if !row.try_get::<bool, _>(2).map_err(read)? {
            tracing::warn!(
                server = self.name,
                "fsync is off: a crash of the server loses what was committed"
            );
        }
        let encoding: String = row.try_get(3).map_err(read)?;
        if encoding != "UTF8" {
            return Err(
                self.unfit(format!("its encoding is {encoding}: make the database with ENCODING 'UTF8'"))
            );
        }
        Ok(())
    }

    async fn migrate(&self, connection: &mut PgConnection) -> Result<(), OpenError> {
        let failed = |source| OpenError::Migration { server: self.name.clone(), source };
        let there: bool = sqlx::query("SELECT to_regclass('trunkline.schema_version') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        let (mut found, mut least) = (0_i32, 0_i32);
        if there {
            let sql =
                "SELECT coalesce(max(version), 0), coalesce(max(least), 0) FROM trunkline.schema_version";
            let row = sqlx::query(sql).fetch_one(&mut *connection).await.map_err(failed)?;
            (found, least) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        }
        let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
        if least > known {
            let (found, known) = (found.into(), known.into());
            return Err(OpenError::Newer { store: self.name.clone(), found, known });
        }
        for (version, (least, sql)) in (1..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
            apply(connection, version, *least, sql).await.map_err(failed)?;
            tracing::info!(server = self.name, version, "journal schema brought up to date");
        }
        connection.execute(IDENTIFY).await.map(drop).map_err(failed)
    }
}

async fn apply(
    connection: &mut PgConnection,
    version: i32,
    least: i32,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if version == 1 {
        transaction
            .execute(
                "CREATE SCHEMA IF NOT EXISTS trunkline; CREATE TABLE trunkline.schema_version (version int PRIMARY KEY, \
                 least int NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
    }
    sqlx::raw_sql(sql).execute(&mut *transaction).await?;
    sqlx::query("INSERT INTO trunkline.schema_version (version, least) VALUES ($1, $2)")
        .bind(version)
        .bind(least)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Every statement has an end; a commit is on the disk when it is acknowledged (a stricter setting of the server stays);
/// planning a short statement must not compile it.
async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SQL: &str = "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $1, false), \
                       set_config('idle_in_transaction_session_timeout', $1, false), set_config('jit', 'off', false), \
                       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END";
    sqlx::query(SQL).bind(STATEMENT.as_millis().to_string()).execute(connection).await.map(|_| ())
}
