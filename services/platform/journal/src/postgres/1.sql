-- The journal's tables and the functions that nodes call. Functions carry their version in their names: nodes of two
-- versions of the program use one database side by side.

CREATE TABLE trunkline.meta (name text PRIMARY KEY, value bigint NOT NULL);
-- Added to transaction numbers, so that positions never go back when the data moves to another server.
INSERT INTO trunkline.meta VALUES ('position_base', 0);

-- All shards from the start: whoever appends or seals locks rows that are there. Half of each page is kept free so
-- that a new version of a row finds room beside the old one.
CREATE TABLE trunkline.shard (
    id int PRIMARY KEY, epoch bigint NOT NULL, seq bigint NOT NULL, owner text NOT NULL
) WITH (fillfactor = 50);
INSERT INTO trunkline.shard SELECT id, 0, 0, '' FROM generate_series(0, 4095) AS id;

CREATE SEQUENCE trunkline.entity_id;
CREATE TABLE trunkline.entity (
    id bigint PRIMARY KEY, kind text NOT NULL, tenant text NOT NULL, name text NOT NULL,
    shard int NOT NULL, finished boolean NOT NULL
) WITH (fillfactor = 90);
CREATE UNIQUE INDEX entity_by_name ON trunkline.entity (name, tenant, kind);
CREATE INDEX entity_live ON trunkline.entity (kind, shard) WHERE NOT finished;

-- One row an append. position, seq and nth are those of its last event; the events before it count down from there.
CREATE TABLE trunkline.event (
    position bigint PRIMARY KEY, shard int NOT NULL, seq bigint NOT NULL, epoch bigint NOT NULL,
    entity bigint NOT NULL, nth bigint NOT NULL, events int NOT NULL, body bytea NOT NULL
);
CREATE UNIQUE INDEX event_by_entity ON trunkline.event (entity, nth);
CREATE UNIQUE INDEX event_by_shard ON trunkline.event (shard, seq);
-- Payloads are small and many: looking for something to compress in each costs more than it saves.
ALTER TABLE trunkline.event ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE trunkline.snapshot (
    entity bigint PRIMARY KEY, nth bigint NOT NULL, version int NOT NULL, body bytea NOT NULL
);

CREATE TABLE trunkline.document (
    tenant text NOT NULL, kind text NOT NULL, id text NOT NULL, revision bigint NOT NULL,
    at bigint NOT NULL, body text, PRIMARY KEY (tenant, kind, id, revision)
);
CREATE UNIQUE INDEX document_by_revision ON trunkline.document (revision);

-- The first position that may still be missing: transactions from xmin on can yet commit, all before it have ended.
CREATE FUNCTION trunkline.horizon_v1() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        + (SELECT value FROM trunkline.meta WHERE name = 'position_base')) << 20
$$;

-- Positions are (transaction number + base) * 2^20 + place in the transaction. A server that holds restored data may
-- count its transactions from lower numbers: then the base makes up for it. Called by every writer that connects.
CREATE FUNCTION trunkline.rebase_v1() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    here bigint;
    known bigint;
    base bigint;
BEGIN
    SELECT value INTO base FROM trunkline.meta WHERE name = 'position_base' FOR UPDATE;
    SELECT coalesce(max(position), 0) >> 20 INTO known FROM trunkline.event;
    here := pg_current_xact_id()::text::bigint;
    IF known >= here + base THEN
        base := known + 1 - here;
        UPDATE trunkline.meta SET value = base WHERE name = 'position_base';
    END IF;
    RETURN base;
END
$$;

-- Raises the shards' epochs; with "seen" only if they are at that epoch. sealed = false: they are not.
CREATE FUNCTION trunkline.seal_v1(shards int[], seen bigint, sealer text)
RETURNS TABLE (shard int, current bigint, sealed boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM trunkline.shard s WHERE s.id = ANY (shards) ORDER BY s.id FOR NO KEY UPDATE;
    IF EXISTS (SELECT 1 FROM trunkline.shard s WHERE s.id = ANY (shards) AND s.epoch <> seen) THEN
        RETURN QUERY SELECT s.id, s.epoch, false FROM trunkline.shard s WHERE s.id = ANY (shards) AND s.epoch <> seen;
        RETURN;
    END IF;
    RETURN QUERY UPDATE trunkline.shard s SET epoch = s.epoch + 1, owner = sealer WHERE s.id = ANY (shards)
        RETURNING s.id, s.epoch, true;
END
$$;

-- Commits a batch of appends, each one whole or not at all. "Chains" are the batch's entities, each with the number of
-- events it must have and those it gets; "rows" are the appends, in order, each of one chain.
--
-- The shards' rows are locked first, in order: writers and sealers of a shard pass one by one, and nothing is locked
-- across a round trip. Statements after that see what the one before committed.
--
-- One row is returned for each append: its last seq and position when it is written; else the shard's epoch and how
-- many events its entity has.
CREATE FUNCTION trunkline.append_v1(
    kinds text[], tenants text[], names text[], shards int[], epochs bigint[], afters bigint[], finals boolean[],
    chains int[], nths bigint[], counts int[], bodies bytea[]
) RETURNS TABLE (last_seq bigint, last_position bigint, current bigint, actual bigint) LANGUAGE plpgsql AS $$
DECLARE
    origin bigint;
BEGIN
    PERFORM 1 FROM trunkline.shard s WHERE s.id = ANY (shards) ORDER BY s.id FOR NO KEY UPDATE;
    origin := (pg_current_xact_id()::text::bigint
        + (SELECT value FROM trunkline.meta WHERE name = 'position_base')) << 20;
    RETURN QUERY
    WITH chain AS MATERIALIZED (
        SELECT c.i, c.kind, c.tenant, c.name, c.shard, c.epoch, c.after, c.final, s.epoch AS current, s.seq,
            e.id AS entity, e.finished, coalesce(v.nth, 0) AS actual
        FROM unnest(kinds, tenants, names, shards, epochs, afters, finals) WITH ORDINALITY
            AS c (kind, tenant, name, shard, epoch, after, final, i)
        JOIN trunkline.shard s ON s.id = c.shard
        LEFT JOIN trunkline.entity e ON e.name = c.name AND e.tenant = c.tenant AND e.kind = c.kind
        LEFT JOIN LATERAL (
            SELECT w.nth FROM trunkline.event w WHERE w.entity = e.id ORDER BY w.nth DESC LIMIT 1
        ) v ON true
    ), good AS MATERIALIZED (
        SELECT c.i, c.kind, c.tenant, c.name, c.shard, c.epoch, c.final, c.seq, c.finished,
            coalesce(c.entity, nextval('trunkline.entity_id')) AS entity
        FROM chain c WHERE c.epoch = c.current AND c.epoch > 0 AND c.after = c.actual
    ), line AS MATERIALIZED (
        SELECT r.i, r.chain, g.entity, g.shard, g.epoch, r.nth, r.events, r.body,
            (g.seq + sum(r.events) OVER (PARTITION BY g.shard ORDER BY r.i))::bigint AS seq,
            (origin + sum(r.events) OVER (ORDER BY r.i))::bigint AS position
        FROM unnest(chains, nths, counts, bodies) WITH ORDINALITY AS r (chain, nth, events, body, i)
        JOIN good g ON g.i = r.chain
    ), born AS (
        INSERT INTO trunkline.entity (id, kind, tenant, name, shard, finished)
        SELECT g.entity, g.kind, g.tenant, g.name, g.shard, g.final FROM good g WHERE g.finished IS NULL
    ), changed AS (
        UPDATE trunkline.entity e SET finished = g.final FROM good g
        WHERE e.id = g.entity AND g.finished <> g.final
    ), written AS (
        INSERT INTO trunkline.event (position, shard, seq, epoch, entity, nth, events, body)
        SELECT l.position, l.shard, l.seq, l.epoch, l.entity, l.nth, l.events, l.body FROM line l ORDER BY l.i
    ), moved AS (
        UPDATE trunkline.shard s SET seq = m.seq
        FROM (SELECT l.shard, max(l.seq) AS seq FROM line l GROUP BY l.shard) m WHERE s.id = m.shard
    )
    SELECT l.seq, l.position, c.current, c.actual
    FROM unnest(chains) WITH ORDINALITY AS r (chain, i)
    JOIN chain c ON c.i = r.chain
    LEFT JOIN line l ON l.i = r.i
    ORDER BY r.i;
END
$$;

-- Writes a version of a document; without a body it is deleted. Revisions are given out one by one, in commit order.
CREATE FUNCTION trunkline.put_document_v1(
    of_tenant text, of_kind text, of_id text, expected bigint, written_at bigint, content text
) RETURNS TABLE (revision bigint, written boolean) LANGUAGE plpgsql AS $$
DECLARE
    standing bigint;
    newest bigint;
BEGIN
    LOCK TABLE trunkline.document IN SHARE ROW EXCLUSIVE MODE;
    SELECT CASE WHEN d.body IS NULL THEN 0 ELSE d.revision END INTO standing FROM trunkline.document d
        WHERE d.tenant = of_tenant AND d.kind = of_kind AND d.id = of_id ORDER BY d.revision DESC LIMIT 1;
    standing := coalesce(standing, 0);
    IF expected <> standing THEN
        RETURN QUERY SELECT standing, false;
        RETURN;
    END IF;
    SELECT coalesce(max(d.revision), 0) + 1 INTO newest FROM trunkline.document d;
    INSERT INTO trunkline.document VALUES (of_tenant, of_kind, of_id, newest, written_at, content);
    PERFORM pg_notify('trunkline_documents', newest::text);
    RETURN QUERY SELECT newest, true;
END
$$;
