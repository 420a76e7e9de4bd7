-- The dictionaries that records are packed with (tracker/log/record_compression.py). Records that are here already stay as they came.
-- A record is packed where its proof is empty and its body begins with zstd's magic number (28 B5 2F FD); its frame names
-- the dictionary, and holds the length of the proof (8 bytes, big-endian), the proof and the body as they came.

CREATE TABLE dictionaries (
    id               INTEGER PRIMARY KEY CHECK (id >= 1),
    source           TEXT NOT NULL,
    vendor           TEXT NOT NULL,
    made_at_position INTEGER NOT NULL, -- the head when it was made: only records after it are packed with it
    bytes            BLOB NOT NULL     -- as zstd's own tools take it: zstd -d -D
) STRICT;

CREATE TRIGGER dictionaries_are_never_updated BEFORE UPDATE ON dictionaries
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: dictionaries are never updated');
END;

CREATE TRIGGER dictionaries_are_never_deleted BEFORE DELETE ON dictionaries
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: dictionaries are never deleted');
END;

-- Also against INSERT OR REPLACE, which deletes without firing the delete trigger.
CREATE TRIGGER dictionaries_have_no_gaps BEFORE INSERT ON dictionaries
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM dictionaries)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a dictionary gets the next id');
END;

PRAGMA user_version = 3;
