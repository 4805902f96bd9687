-- Inference workers are tenants of the same leases as attempts.

CREATE TABLE inference_workers (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    weights     TEXT NOT NULL,        -- the name of the model that it has loaded
    launch      TEXT NOT NULL UNIQUE,
    device      TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    ending_note TEXT,
    CHECK ((ended_at IS NULL) = (ending_note IS NULL))
) STRICT;
CREATE INDEX inference_workers_live ON inference_workers (id) WHERE ended_at IS NULL;

-- A slot is held by an attempt or by an inference worker, never by both or neither.
CREATE TABLE new_leases (
    device  TEXT NOT NULL,
    slot    INTEGER NOT NULL CHECK (slot >= 0),
    attempt INTEGER REFERENCES attempts (id),
    server  INTEGER REFERENCES inference_workers (id),
    PRIMARY KEY (device, slot),
    CHECK ((attempt IS NULL) <> (server IS NULL))
) STRICT;
INSERT INTO new_leases (device, slot, attempt) SELECT device, slot, attempt FROM leases;
DROP TABLE leases;
ALTER TABLE new_leases RENAME TO leases;
CREATE INDEX leases_by_attempt ON leases (attempt);
CREATE INDEX leases_by_server ON leases (server);
