-- What the nodes of a cluster say about the tree (tracker/log/cluster/messages.py): it travels in the stream, so that every node
-- keeps the same, in the same order. In a log of one machine these stay empty.

-- Which node signed the checkpoint of that size, and the verifier key it said it signs with (empty: it said none).
CREATE TABLE signings (
    size INTEGER PRIMARY KEY CHECK (size >= 1),
    node TEXT NOT NULL,
    key  TEXT NOT NULL
) STRICT;

-- Another node held a tree that begins with the one of the checkpoint of that size.
CREATE TABLE cosignatures (
    size INTEGER NOT NULL CHECK (size >= 1),
    name TEXT NOT NULL, -- of the key
    node TEXT NOT NULL,
    line TEXT NOT NULL, -- as c2sp.org/tlog-cosignature has it, with its newline
    PRIMARY KEY (size, name)
) STRICT, WITHOUT ROWID;

-- A node found that its own records are not those of the checkpoint of that size.
CREATE TABLE complaints (
    size     INTEGER NOT NULL CHECK (size >= 1),
    node     TEXT NOT NULL,
    root     BLOB NOT NULL, -- the node's own, at that size; empty where it has fewer records
    position INTEGER,       -- the first record that differs; NULL: not found
    PRIMARY KEY (size, node)
) STRICT, WITHOUT ROWID;

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

CREATE TRIGGER complaints_are_never_updated BEFORE UPDATE ON complaints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: complaints are never updated');
END;

CREATE TRIGGER complaints_are_never_deleted BEFORE DELETE ON complaints
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: complaints are never deleted');
END;

PRAGMA user_version = 7;
