-- The Merkle tree over the records (tracker/log/merkle/tree.py), and the signed checkpoints about it.
-- Leaves of records that are here already are made when the log is next opened, once.

CREATE TABLE leaves (
    position   INTEGER PRIMARY KEY CHECK (position >= 1),
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    commitment BLOB CHECK (commitment IS NULL OR length(commitment) = 32) -- NULL: the record is kept in clear
) STRICT;

CREATE INDEX sealed_leaves ON leaves (position) WHERE commitment IS NOT NULL;

-- The roots of full tiles: hash n of level 1 is that over leaves 256·n + 1 … 256·n + 256, and so on upwards.
CREATE TABLE tiles (
    level INTEGER NOT NULL CHECK (level >= 1),
    n     INTEGER NOT NULL CHECK (n >= 0),
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY CHECK (size >= 1),
    note TEXT NOT NULL
) STRICT;

-- Which record of ours says that the record at `position` was erased, and what is left of it.
CREATE TABLE erasures (
    position  INTEGER PRIMARY KEY CHECK (position >= 1),
    erased_by INTEGER NOT NULL CHECK (erased_by > position)
) STRICT;

CREATE TRIGGER erasures_are_never_updated BEFORE UPDATE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: erasures are never updated');
END;

CREATE TRIGGER erasures_are_never_deleted BEFORE DELETE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: erasures are never deleted');
END;

CREATE TRIGGER erasures_are_never_replaced BEFORE INSERT ON erasures
WHEN EXISTS (SELECT 1 FROM erasures WHERE position = NEW.position)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this record is erased already');
END;

CREATE TRIGGER leaves_are_never_updated BEFORE UPDATE ON leaves
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: leaves are never updated');
END;

CREATE TRIGGER leaves_are_never_deleted BEFORE DELETE ON leaves
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: leaves are never deleted');
END;

-- Also against INSERT OR REPLACE, which deletes without firing the delete trigger.
CREATE TRIGGER leaves_have_no_gaps BEFORE INSERT ON leaves
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM leaves)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a leaf goes to the next position');
END;

CREATE TRIGGER tiles_are_never_updated BEFORE UPDATE ON tiles
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: tiles are never updated');
END;

CREATE TRIGGER tiles_are_never_deleted BEFORE DELETE ON tiles
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: tiles are never deleted');
END;

CREATE TRIGGER tiles_are_never_replaced BEFORE INSERT ON tiles
WHEN EXISTS (SELECT 1 FROM tiles WHERE level = NEW.level AND n = NEW.n)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this tile is there already');
END;

CREATE TRIGGER checkpoints_are_never_updated BEFORE UPDATE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: checkpoints are never updated');
END;

CREATE TRIGGER checkpoints_are_never_deleted BEFORE DELETE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: checkpoints are never deleted');
END;

CREATE TRIGGER checkpoints_are_never_replaced BEFORE INSERT ON checkpoints
WHEN EXISTS (SELECT 1 FROM checkpoints WHERE size = NEW.size)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: there is a checkpoint of this size already');
END;

PRAGMA user_version = 2;
