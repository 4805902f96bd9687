-- API keys beside the one of home/admin.key. A secret is never kept, only its hash.

CREATE TABLE keys (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    project    TEXT NOT NULL,
    scopes     TEXT NOT NULL,         -- JSON array of words
    sha256     TEXT NOT NULL,         -- of the secret
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at    INTEGER,               -- to the minute
    revoked_at INTEGER                -- lets nobody in from here on
) STRICT;
CREATE INDEX keys_live ON keys (seq) WHERE revoked_at IS NULL;
