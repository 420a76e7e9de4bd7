-- A log that is a node's replica of a stream (log.engine = "jetstream") says here how far it has applied it.
-- No row: the log is nobody's replica, and appends for itself.

CREATE TABLE stream (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    log_id   TEXT NOT NULL,                          -- which log it is: the stream's metadata say the same
    name     TEXT NOT NULL,                          -- of the stream
    sequence INTEGER NOT NULL CHECK (sequence >= 0), -- the last message applied; written with what it brought
    digest   BLOB NOT NULL                           -- SHA-256 of that message; empty before the first
) STRICT;

-- A cursor moves, but never back: what it passed is recorded.
CREATE TRIGGER the_cursor_only_goes_on BEFORE UPDATE ON stream
WHEN NEW.sequence < OLD.sequence OR NEW.log_id IS NOT OLD.log_id
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: the stream is applied in order, and no other one');
END;

CREATE TRIGGER the_cursor_stays BEFORE DELETE ON stream
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: a replica stays one');
END;

CREATE TRIGGER a_log_follows_one_stream BEFORE INSERT ON stream
WHEN EXISTS (SELECT 1 FROM stream)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: it is the replica of a stream already');
END;

PRAGMA user_version = 4;
