-- In a replica: which sealed copies of a record the stream holds. Its messages cannot be deleted, so erasing a record
-- destroys the data keys of all of them (tracker/log/keys/frame_keys.py). Of a record that is sealed in a stream, the first
-- copy is the one that was kept; the others lost against it: two nodes were given the same delivery, or one was sent twice.

-- A message of the stream with sealed records in it, and the id that its data keys are kept under.
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

CREATE TRIGGER frames_are_never_updated BEFORE UPDATE ON frames
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: frames are never updated');
END;

CREATE TRIGGER frames_are_never_deleted BEFORE DELETE ON frames
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: frames are never deleted');
END;

CREATE TRIGGER frames_are_never_replaced BEFORE INSERT ON frames
WHEN EXISTS (SELECT 1 FROM frames WHERE sequence = NEW.sequence)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this frame is there already');
END;

CREATE TRIGGER copies_are_never_updated BEFORE UPDATE ON copies
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: copies are never updated');
END;

CREATE TRIGGER copies_are_never_deleted BEFORE DELETE ON copies
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: copies are never deleted');
END;

PRAGMA user_version = 6;
