-- The log: one append-only table, one gapless order of positions.
-- Each file runs in one transaction and ends by writing its own number into user_version.

-- "TRKR": tells a log of ours from any other SQLite file.
PRAGMA application_id = 1414679378;

CREATE TABLE records (
    position    INTEGER PRIMARY KEY CHECK (position >= 1),
    source      TEXT NOT NULL,
    vendor      TEXT NOT NULL,
    event       TEXT NOT NULL,
    dedupe_key  TEXT NOT NULL,
    received_at INTEGER NOT NULL, -- microseconds since 1970-01-01T00:00:00Z, our clock
    origin      TEXT NOT NULL CHECK (origin IN ('webhook', 'import')),
    proof       BLOB NOT NULL,
    body        BLOB NOT NULL     -- the exact bytes received
) STRICT;

CREATE UNIQUE INDEX records_by_dedupe_key ON records (source, dedupe_key);

CREATE TRIGGER records_are_never_updated BEFORE UPDATE ON records
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: records are never updated');
END;

CREATE TRIGGER records_are_never_deleted BEFORE DELETE ON records
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: records are never deleted');
END;

-- INSERT OR REPLACE deletes without firing the delete trigger: on a taken position, and on a taken dedupe key.
-- These two close both ways.
CREATE TRIGGER positions_have_no_gaps BEFORE INSERT ON records
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM records)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a record goes to the next position');
END;

CREATE TRIGGER repeats_are_not_recorded BEFORE INSERT ON records
WHEN EXISTS (SELECT 1 FROM records WHERE source = NEW.source AND dedupe_key = NEW.dedupe_key)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this delivery is already recorded');
END;

PRAGMA user_version = 1;
