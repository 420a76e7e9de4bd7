-- Repeats are found by the last twelve characters of their dedupe key (48 bits of a hash, or most of a vendor's id), then
-- by the whole: an index of whole keys was a fifth of the log.

DROP INDEX records_by_dedupe_key;

CREATE INDEX records_by_end_of_key ON records (substr(dedupe_key, -12));

-- Tracker's own records are few and looked for; no other source is listed from the log.
CREATE INDEX records_of_ours ON records (position) WHERE source = 'tracker';

DROP TRIGGER repeats_are_not_recorded;

-- The + keeps SQLite from putting the wanted key into substr() and missing the index.
CREATE TRIGGER repeats_are_not_recorded BEFORE INSERT ON records
WHEN EXISTS (
    SELECT 1 FROM records
    WHERE substr(dedupe_key, -12) = substr(NEW.dedupe_key, -12) AND source = NEW.source AND +dedupe_key = NEW.dedupe_key
)
BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: this delivery is already recorded');
END;

PRAGMA user_version = 5;
