-- The schema of a SQLite log: one append-only table of records in one gapless order of positions, the Merkle tree over
-- them, and what a cluster's nodes keep beside them.
--
-- This file makes schema version 9. Versions 1 to 8 were never released. The next file is 0010_<what>.sql and makes version 10.
-- Each file runs in one transaction. Its last statement writes its version into user_version.

-- "TRKR": tells a log of Tracker from any other SQLite file.
PRAGMA application_id = 1414679378;

CREATE TABLE records (
    position    INTEGER PRIMARY KEY CHECK (position >= 1),
    source      TEXT NOT NULL,
    vendor      TEXT NOT NULL,
    event       TEXT NOT NULL,
    dedupe_key  TEXT NOT NULL,
    received_at INTEGER NOT NULL, -- microseconds since 1970-01-01T00:00:00Z, our clock
    origin      TEXT NOT NULL CHECK (origin IN ('webhook', 'import', 'observation')),
    proof       BLOB NOT NULL,
    body        BLOB NOT NULL     -- the exact bytes received, compressed (below) or encrypted
) STRICT;

-- Duplicates are found by the last twelve characters of their dedupe key (48 bits of a hash, or most of a vendor's id), then
-- by the whole key. An index of whole keys took a fifth of the log.
CREATE INDEX records_by_end_of_key ON records (substr(dedupe_key, -12));

-- Tracker's own records are few and are listed by source. No other source is listed from the log.
CREATE INDEX records_of_tracker ON records (position) WHERE source = 'tracker';

-- The leaves of the Merkle tree (tracker/log/merkle/tree.py), one a record.
CREATE TABLE leaves (
    position   INTEGER PRIMARY KEY CHECK (position >= 1),
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    commitment BLOB CHECK (commitment IS NULL OR length(commitment) = 32) -- NULL: the record is not encrypted
) STRICT;

CREATE INDEX encrypted_leaves ON leaves (position) WHERE commitment IS NOT NULL;

-- The roots of full tiles. Hash n of level 1 covers leaves 256·n + 1 … 256·n + 256, and so on upwards.
CREATE TABLE tiles (
    level INTEGER NOT NULL CHECK (level >= 1),
    n     INTEGER NOT NULL CHECK (n >= 0),
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;

-- Signed notes about the tree of the first `size` records.
CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY CHECK (size >= 1),
    note TEXT NOT NULL
) STRICT;

-- Which record of Tracker says that the record at `position` was erased.
CREATE TABLE erasures (
    position  INTEGER PRIMARY KEY CHECK (position >= 1),
    erased_by INTEGER NOT NULL CHECK (erased_by > position)
) STRICT;

-- The dictionaries that records are compressed with (tracker/log/record_compression.py).
-- A record is compressed where its proof is empty and its body begins with zstd's magic number (28 B5 2F FD). Its zstd frame
-- names the dictionary, and holds the length of the proof (8 bytes, big-endian), the proof and the body as they were received.
CREATE TABLE dictionaries (
    id               INTEGER PRIMARY KEY CHECK (id >= 1),
    source           TEXT NOT NULL,
    vendor           TEXT NOT NULL,
    made_at_position INTEGER NOT NULL, -- the head when it was made: only later records are compressed with it
    bytes            BLOB NOT NULL     -- as zstd's own tools take it: zstd -d -D
) STRICT;

-- Only in a node's replica of a stream (log.engine = "jetstream"): how far it has applied the stream.
-- No row: the log is not a replica and appends for itself.
CREATE TABLE stream (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    log_id   TEXT NOT NULL,                          -- which log it is: the stream's metadata hold the same id
    name     TEXT NOT NULL,                          -- of the stream
    sequence INTEGER NOT NULL CHECK (sequence >= 0), -- the last message applied; written together with its records
    digest   BLOB NOT NULL                           -- SHA-256 of that message; empty before the first
) STRICT;

-- In a replica: which encrypted copies of a record the stream holds. Its messages cannot be deleted, so erasing a record
-- destroys the data keys of all copies (tracker/log/keys/frame_keys.py). The first copy is the record in the log. Others are
-- duplicates: two nodes received the same delivery, or one node received it twice.

-- A message of the stream with encrypted records in it, and the id of the frame, under which its data keys are stored.
CREATE TABLE frames (
    sequence INTEGER PRIMARY KEY CHECK (sequence >= 1),
    id       BLOB NOT NULL CHECK (length(id) = 16)
) STRICT;

-- The n-th record of that message is a copy of the record at the position.
CREATE TABLE copies (
    position INTEGER NOT NULL CHECK (position >= 1),
    sequence INTEGER NOT NULL,
    n        INTEGER NOT NULL CHECK (n >= 0),
    PRIMARY KEY (position, sequence, n)
) STRICT, WITHOUT ROWID;

-- What the nodes of a cluster publish about the tree (tracker/log/cluster/messages.py). It travels in the stream, so every
-- node stores the same, in the same order. These tables stay empty in the log of a single server.

-- Which node signed the checkpoint of that size, and the verifier key it announced (empty: none).
CREATE TABLE signings (
    size INTEGER PRIMARY KEY CHECK (size >= 1),
    node TEXT NOT NULL,
    key  TEXT NOT NULL
) STRICT;

-- Another node held a tree that begins with the tree of the checkpoint of that size.
CREATE TABLE cosignatures (
    size INTEGER NOT NULL CHECK (size >= 1),
    name TEXT NOT NULL, -- of the key
    node TEXT NOT NULL,
    line TEXT NOT NULL, -- as in c2sp.org/tlog-cosignature, with its newline
    PRIMARY KEY (size, name)
) STRICT, WITHOUT ROWID;

-- The key behind each cosigner's name, from the first line under that name.
CREATE TABLE cosigners (
    name TEXT PRIMARY KEY,
    key  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A node found that its own records differ from those of the checkpoint of that size.
CREATE TABLE divergence_reports (
    size     INTEGER NOT NULL CHECK (size >= 1),
    node     TEXT NOT NULL,
    root     BLOB NOT NULL, -- the node's own, at that size; empty where it has fewer records
    position INTEGER,       -- the first record that differs; NULL: not found
    PRIMARY KEY (size, node)
) STRICT, WITHOUT ROWID;

-- Messages about the tree that no known key signed (tracker/log/sqlite/trust.py). Nothing depends on them. They are checked
-- again when the log is opened: a row that can be trusted by then moves to its table.
CREATE TABLE quarantine (
    sequence INTEGER PRIMARY KEY, -- of the message in the stream
    message  BLOB NOT NULL,
    why      TEXT NOT NULL
) STRICT;

-- From here on: triggers that keep the log append-only.

CREATE TRIGGER records_are_never_updated BEFORE UPDATE ON records
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: records are never updated');
END;

CREATE TRIGGER records_are_never_deleted BEFORE DELETE ON records
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: records are never deleted');
END;

CREATE TRIGGER leaves_are_never_updated BEFORE UPDATE ON leaves
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: leaves are never updated');
END;

CREATE TRIGGER leaves_are_never_deleted BEFORE DELETE ON leaves
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: leaves are never deleted');
END;

CREATE TRIGGER tiles_are_never_updated BEFORE UPDATE ON tiles
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: tiles are never updated');
END;

CREATE TRIGGER tiles_are_never_deleted BEFORE DELETE ON tiles
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: tiles are never deleted');
END;

CREATE TRIGGER checkpoints_are_never_updated BEFORE UPDATE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: checkpoints are never updated');
END;

CREATE TRIGGER checkpoints_are_never_deleted BEFORE DELETE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: checkpoints are never deleted');
END;

CREATE TRIGGER erasures_are_never_updated BEFORE UPDATE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: erasures are never updated');
END;

CREATE TRIGGER erasures_are_never_deleted BEFORE DELETE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: erasures are never deleted');
END;

CREATE TRIGGER dictionaries_are_never_updated BEFORE UPDATE ON dictionaries
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: dictionaries are never updated');
END;

CREATE TRIGGER dictionaries_are_never_deleted BEFORE DELETE ON dictionaries
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: dictionaries are never deleted');
END;

CREATE TRIGGER frames_are_never_updated BEFORE UPDATE ON frames
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: frames are never updated');
END;

CREATE TRIGGER frames_are_never_deleted BEFORE DELETE ON frames
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: frames are never deleted');
END;

CREATE TRIGGER copies_are_never_updated BEFORE UPDATE ON copies
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: copies are never updated');
END;

CREATE TRIGGER copies_are_never_deleted BEFORE DELETE ON copies
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: copies are never deleted');
END;

CREATE TRIGGER signings_are_never_updated BEFORE UPDATE ON signings
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: signings are never updated');
END;

CREATE TRIGGER signings_are_never_deleted BEFORE DELETE ON signings
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: signings are never deleted');
END;

CREATE TRIGGER cosignatures_are_never_updated BEFORE UPDATE ON cosignatures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosignatures are never updated');
END;

CREATE TRIGGER cosignatures_are_never_deleted BEFORE DELETE ON cosignatures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosignatures are never deleted');
END;

CREATE TRIGGER cosigners_are_never_updated BEFORE UPDATE ON cosigners
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosigners are never updated');
END;

CREATE TRIGGER cosigners_are_never_deleted BEFORE DELETE ON cosigners
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosigners are never deleted');
END;

CREATE TRIGGER divergence_reports_are_never_updated BEFORE UPDATE ON divergence_reports
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: divergence reports are never updated');
END;

CREATE TRIGGER divergence_reports_are_never_deleted BEFORE DELETE ON divergence_reports
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: divergence reports are never deleted');
END;

-- INSERT OR REPLACE deletes without firing the delete trigger. The triggers below close that way too.

CREATE TRIGGER positions_have_no_gaps BEFORE INSERT ON records
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM records)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a record goes to the next position');
END;

-- The + keeps SQLite from putting the wanted key into substr() and missing the index.
CREATE TRIGGER duplicates_are_not_recorded BEFORE INSERT ON records
WHEN EXISTS (
    SELECT 1 FROM records
    WHERE substr(dedupe_key, -12) = substr(NEW.dedupe_key, -12) AND source = NEW.source AND +dedupe_key = NEW.dedupe_key
)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this delivery is already recorded');
END;

CREATE TRIGGER leaves_have_no_gaps BEFORE INSERT ON leaves
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM leaves)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a leaf goes to the next position');
END;

CREATE TRIGGER tiles_are_never_replaced BEFORE INSERT ON tiles
WHEN EXISTS (SELECT 1 FROM tiles WHERE level = NEW.level AND n = NEW.n)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this tile exists already');
END;

CREATE TRIGGER checkpoints_are_never_replaced BEFORE INSERT ON checkpoints
WHEN EXISTS (SELECT 1 FROM checkpoints WHERE size = NEW.size)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: there is a checkpoint of this size already');
END;

CREATE TRIGGER erasures_are_never_replaced BEFORE INSERT ON erasures
WHEN EXISTS (SELECT 1 FROM erasures WHERE position = NEW.position)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this record is erased already');
END;

CREATE TRIGGER dictionaries_have_no_gaps BEFORE INSERT ON dictionaries
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM dictionaries)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a dictionary gets the next id');
END;

CREATE TRIGGER frames_are_never_replaced BEFORE INSERT ON frames
WHEN EXISTS (SELECT 1 FROM frames WHERE sequence = NEW.sequence)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this frame exists already');
END;

-- The cursor moves forwards only: what it has passed is recorded.
CREATE TRIGGER the_cursor_moves_forwards BEFORE UPDATE ON stream
WHEN NEW.sequence < OLD.sequence OR NEW.log_id IS NOT OLD.log_id
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a replica applies one stream, in order');
END;

CREATE TRIGGER the_cursor_is_never_deleted BEFORE DELETE ON stream
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a replica stays a replica');
END;

CREATE TRIGGER a_log_follows_one_stream BEFORE INSERT ON stream
WHEN EXISTS (SELECT 1 FROM stream)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: it is the replica of a stream already');
END;

PRAGMA user_version = 9;
