-- What was made for a request that its client may send again: for a day, so that it is made once.

CREATE TABLE idempotency (
    project TEXT NOT NULL,
    key     TEXT NOT NULL,        -- the client's
    sha256  TEXT NOT NULL,        -- of what was asked
    made    TEXT NOT NULL,        -- the id of what was made
    made_at INTEGER NOT NULL,
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (made_at);
CREATE INDEX idempotency_by_made ON idempotency (made);
