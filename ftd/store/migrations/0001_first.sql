-- The first schema. Migrations are never edited; the next change is the next file.
-- Times are Unix seconds. Every owned row has a project.

CREATE TABLE files (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    project    TEXT NOT NULL,
    purpose    TEXT NOT NULL,
    filename   TEXT NOT NULL,
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    sha256     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    status     TEXT NOT NULL CHECK (status IN ('uploaded', 'processed', 'error')),
    report     TEXT,              -- JSON of ftd.core.dataset.Report
    deleted_at INTEGER,           -- hidden from here on
    purged_at  INTEGER            -- its bytes are gone
) STRICT;
CREATE INDEX files_listed ON files (project, seq) WHERE deleted_at IS NULL;
CREATE INDEX files_unpurged ON files (deleted_at) WHERE purged_at IS NULL;

CREATE TABLE models (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    project    TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('base', 'tuned', 'checkpoint')),
    base       TEXT NOT NULL,
    path       TEXT NOT NULL,     -- relative to the home
    sha256     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    job        TEXT REFERENCES jobs (id),
    facts      TEXT,              -- JSON
    deleted_at INTEGER,
    purged_at  INTEGER
) STRICT;
CREATE UNIQUE INDEX models_by_name ON models (name) WHERE deleted_at IS NULL;

CREATE TABLE jobs (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL UNIQUE,
    project          TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    finished_at      INTEGER,
    model            TEXT NOT NULL,
    base             TEXT NOT NULL,
    minted           TEXT NOT NULL UNIQUE,
    training_file    TEXT NOT NULL REFERENCES files (id),
    validation_file  TEXT REFERENCES files (id),
    suffix           TEXT,
    seed             INTEGER NOT NULL,
    method           TEXT NOT NULL,
    requested        TEXT NOT NULL,   -- JSON of Requested
    hyperparameters  TEXT,            -- JSON of Hyperparameters, once the files are checked
    metadata         TEXT,            -- JSON object of strings
    priority         INTEGER NOT NULL DEFAULT 0,
    state            TEXT NOT NULL CHECK (state IN (
        'validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    want             TEXT NOT NULL DEFAULT 'run' CHECK (want IN ('run', 'pause', 'cancel')),
    wait_reason      TEXT,
    phase            TEXT,
    error_code       TEXT,
    error_message    TEXT,
    error_param      TEXT,
    fine_tuned_model TEXT,
    trained_tokens   INTEGER,
    result_file      TEXT REFERENCES files (id),
    step             INTEGER NOT NULL DEFAULT 0,
    total_steps      INTEGER,
    estimated_finish INTEGER,
    spec             TEXT,            -- JSON of the first attempt's TrainSpec
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL)),
    CHECK ((state = 'succeeded') = (fine_tuned_model IS NOT NULL))
) STRICT;
CREATE INDEX jobs_listed ON jobs (project, seq);
CREATE INDEX jobs_open ON jobs (seq) WHERE finished_at IS NULL;

CREATE TABLE attempts (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT NOT NULL REFERENCES jobs (id),
    number       INTEGER NOT NULL,    -- 1 for a job's first
    launch       TEXT NOT NULL UNIQUE,
    devices      TEXT NOT NULL,       -- JSON array of device ids
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    ending       TEXT,                -- done | failed | stopped | lost | returned
    ending_note  TEXT,
    progressed   INTEGER NOT NULL DEFAULT 0,   -- it published a checkpoint
    spool_offset INTEGER NOT NULL DEFAULT 0,
    last_word    TEXT,                -- its last telling fact, the line verbatim
    UNIQUE (job, number),
    CHECK ((ended_at IS NULL) = (ending IS NULL))
) STRICT;
-- One live attempt a job, whatever the code believes.
CREATE UNIQUE INDEX attempts_live ON attempts (job) WHERE ended_at IS NULL;

-- A tenant takes slots of a device; an exclusive one takes every slot.
CREATE TABLE leases (
    device  TEXT NOT NULL,
    slot    INTEGER NOT NULL CHECK (slot >= 0),
    attempt INTEGER NOT NULL REFERENCES attempts (id),
    PRIMARY KEY (device, slot)
) STRICT;
CREATE INDEX leases_by_attempt ON leases (attempt);

CREATE TABLE events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    job        TEXT NOT NULL REFERENCES jobs (id),
    created_at INTEGER NOT NULL,
    level      TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    type       TEXT NOT NULL CHECK (type IN ('message', 'metrics')),
    message    TEXT NOT NULL,
    data       TEXT,                  -- JSON object
    step       INTEGER,               -- of a metrics event
    CHECK ((type = 'metrics') = (step IS NOT NULL))
) STRICT;
CREATE INDEX events_by_job ON events (job, seq);
-- A resumed attempt replays steps: the first event of a step stays.
CREATE UNIQUE INDEX events_once_a_step ON events (job, step) WHERE step IS NOT NULL;

-- The last values of each step, for the result file.
CREATE TABLE steps (
    job    TEXT NOT NULL REFERENCES jobs (id),
    step   INTEGER NOT NULL,
    data   TEXT NOT NULL,             -- JSON object
    PRIMARY KEY (job, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    job        TEXT NOT NULL REFERENCES jobs (id),
    created_at INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    model      TEXT,                  -- the name it answers to; NULL: a resume point only
    metrics    TEXT NOT NULL,         -- JSON object
    path       TEXT NOT NULL,         -- relative to the home
    sha256     TEXT NOT NULL,         -- of its manifest
    UNIQUE (job, step)
) STRICT;
