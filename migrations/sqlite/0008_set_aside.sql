-- What came through the stream about the tree without the signature of a known key (tracker/log/sqlite/trust.py).
-- Nothing rests on it. It is looked at again when the log is opened: then rows go where they belong and leave here.
CREATE TABLE set_aside (
    sequence INTEGER PRIMARY KEY, -- of the message in the stream
    message  BLOB NOT NULL,
    why      TEXT NOT NULL
) STRICT;

-- The key of whoever cosigns under a name, as it came with his first line.
CREATE TABLE cosigners (
    name TEXT PRIMARY KEY,
    key  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER cosigners_are_never_updated BEFORE UPDATE ON cosigners
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosigners are never updated');
END;

CREATE TRIGGER cosigners_are_never_deleted BEFORE DELETE ON cosigners
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: cosigners are never deleted');
END;

PRAGMA user_version = 8;
