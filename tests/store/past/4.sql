-- A database at schema 4, as the version that had it left it. Never edited.
BEGIN TRANSACTION;
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
    last_word    TEXT, ending_code TEXT,                -- its last telling fact, the line verbatim
    UNIQUE (job, number),
    CHECK ((ended_at IS NULL) = (ending IS NULL))
) STRICT;
INSERT INTO "attempts" VALUES(1,'ftjob-1',1,'run-0','["cpu"]',1700000090,1700000095,'lost','The trainer was killed by signal 9.',0,512,NULL,'trainer_lost');
INSERT INTO "attempts" VALUES(2,'ftjob-1',2,'run-1','["cpu"]',1700000100,1700000399,'done',NULL,1,99999,'{"kind": "done", "step": 30, "trained_tokens": 12345}',NULL);
INSERT INTO "attempts" VALUES(3,'ftjob-2',1,'run-2','["cpu"]',1700000401,NULL,NULL,NULL,0,2048,NULL,NULL);
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
INSERT INTO "checkpoints" VALUES(1,'ftckpt-1','ftjob-1',1700000200,10,'ft:smol:marv:aaaaaaaa:ckpt-step-10','{"train_loss": 1.5}','runs/run-1/out/checkpoints/step-10','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0');
INSERT INTO "checkpoints" VALUES(2,'ftckpt-2','ftjob-2',1700000402,3,NULL,'{}','runs/run-2/out/checkpoints/step-3','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0');
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
INSERT INTO "events" VALUES(1,'ftevent-1','ftjob-1',1700000010,'info','message','Created fine-tuning job: ftjob-1',NULL,NULL);
INSERT INTO "events" VALUES(2,'ftevent-2','ftjob-1',1700000100,'info','metrics','Step 1/30: training loss=2.40','{"step": 1, "total_steps": 30, "train_loss": 2.4, "train_mean_token_accuracy": 0.5}',1);
INSERT INTO "events" VALUES(3,'ftevent-3','ftjob-1',1700000101,'info','metrics','Step 2/30: training loss=2.30','{"step": 2, "total_steps": 30, "train_loss": 2.3, "train_mean_token_accuracy": 0.5}',2);
INSERT INTO "events" VALUES(4,'ftevent-4','ftjob-4',1700000041,'error','message','The job failed due to an invalid training file.','{"code": "invalid_training_file"}',NULL);
INSERT INTO "events" VALUES(5,'ftevent-5','ftjob-2',1700000402,'info','metrics','Step 3/30: training loss=2.20','{"step": 3, "total_steps": 30, "train_loss": 2.2, "train_mean_token_accuracy": 0.5}',3);
INSERT INTO "events" VALUES(6,'ftevent-6','ftjob-5',1700000060,'warn','message','Fine tuning process stopping due to job cancellation',NULL,NULL);
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
INSERT INTO "files" VALUES(1,'file-train','default','fine-tune','marv.jsonl',4096,'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000000,NULL,'processed','{"format": "chat", "examples": 40, "lines": 40, "faults": [], "fault_count": 0, "warnings": [], "not_jsonl": null, "statistics": {}, "overlap": null}',NULL,NULL);
INSERT INTO "files" VALUES(2,'file-bad','default','fine-tune','it''s bad.jsonl',12,'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000001,1800000000,'error','{"format": "chat", "examples": 0, "lines": 1, "faults": [{"line": 1, "example": 1, "code": "missing_messages", "message": "Line 1 has no messages.", "fix": "Add them."}], "fault_count": 1, "warnings": [], "not_jsonl": null, "statistics": {}, "overlap": null}',NULL,NULL);
INSERT INTO "files" VALUES(3,'file-result','default','fine-tune-results','step_metrics.csv',900,'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000500,NULL,'processed',NULL,NULL,NULL);
INSERT INTO "files" VALUES(4,'file-gone','default','fine-tune','old.jsonl',10,'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000002,NULL,'uploaded',NULL,1700000003,1700000004);
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
INSERT INTO "inference_workers" VALUES(1,'smol','run-8','gpu-1',1700000300,1700000310,'idle');
INSERT INTO "inference_workers" VALUES(2,'smol','run-9','gpu-1',1700000403,NULL,NULL);
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
    spec             TEXT, fine_tuned_model_sha256 TEXT, retry_at INTEGER,            -- JSON of the first attempt's TrainSpec
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL)),
    CHECK ((state = 'succeeded') = (fine_tuned_model IS NOT NULL))
) STRICT;
INSERT INTO "jobs" VALUES(1,'ftjob-1','default',1700000010,1700000400,'smol','smol','ft:smol:marv:aaaaaaaa','file-train','file-train','marv',1,'supervised','{"n_epochs": null, "batch_size": 4, "learning_rate_multiplier": null}','{"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "reasons": ["n_epochs 3 (auto: the usual for 40 examples)", "batch_size 4 (as asked)", "learning_rate_multiplier 1 (auto: the base learning rate)"]}','{"who": "me"}',0,'succeeded','run',NULL,NULL,NULL,NULL,NULL,'ft:smol:marv:aaaaaaaa',12345,'file-result',30,30,NULL,'{"version": 1, "job": "ftjob-2", "attempt": 1, "seed": 7}','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',NULL);
INSERT INTO "jobs" VALUES(2,'ftjob-2','default',1700000020,NULL,'smol','smol','ft:smol::bbbbbbbb','file-train',NULL,NULL,7,'supervised','{"n_epochs": null, "batch_size": 4, "learning_rate_multiplier": null}','{"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "reasons": ["n_epochs 3 (auto: the usual for 40 examples)", "batch_size 4 (as asked)", "learning_rate_multiplier 1 (auto: the base learning rate)"]}',NULL,3,'running','run',NULL,'training',NULL,NULL,NULL,NULL,NULL,NULL,3,30,1700009999,'{"version": 1, "job": "ftjob-2", "attempt": 1, "seed": 7}',NULL,NULL);
INSERT INTO "jobs" VALUES(3,'ftjob-3','default',1700000030,NULL,'smol','smol','ft:smol::cccccccc','file-train',NULL,NULL,8,'supervised','{"n_epochs": null, "batch_size": 4, "learning_rate_multiplier": null}','{"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "reasons": ["n_epochs 3 (auto: the usual for 40 examples)", "batch_size 4 (as asked)", "learning_rate_multiplier 1 (auto: the base learning rate)"]}',NULL,0,'queued','run','every device is taken',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,1700000500);
INSERT INTO "jobs" VALUES(4,'ftjob-4','default',1700000040,1700000041,'smol','smol','ft:smol::dddddddd','file-bad',NULL,NULL,9,'supervised','{"n_epochs": null, "batch_size": 4, "learning_rate_multiplier": null}',NULL,NULL,0,'failed','run',NULL,NULL,'invalid_training_file','The job failed due to an invalid training file.','training_file',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(5,'ftjob-5','default',1700000050,1700000060,'smol','smol','ft:smol::eeeeeeee','file-train',NULL,NULL,10,'supervised','{"n_epochs": null, "batch_size": 4, "learning_rate_multiplier": null}','{"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "reasons": ["n_epochs 3 (auto: the usual for 40 examples)", "batch_size 4 (as asked)", "learning_rate_multiplier 1 (auto: the base learning rate)"]}',NULL,0,'cancelled','cancel',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE "leases" (
    device  TEXT NOT NULL,
    slot    INTEGER NOT NULL CHECK (slot >= 0),
    attempt INTEGER REFERENCES attempts (id),
    server  INTEGER REFERENCES inference_workers (id),
    PRIMARY KEY (device, slot),
    CHECK ((attempt IS NULL) <> (server IS NULL))
) STRICT;
INSERT INTO "leases" VALUES('cpu',0,3,NULL);
INSERT INTO "leases" VALUES('cpu',1,3,NULL);
INSERT INTO "leases" VALUES('gpu-1',0,NULL,2);
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
INSERT INTO "models" VALUES(1,'smol','*','base','smol','models/smol','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000000,NULL,'{"context_tokens": 2048}',NULL,NULL);
INSERT INTO "models" VALUES(2,'ft:smol:marv:aaaaaaaa','default','tuned','smol','adapters/aaaaaaaa','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000400,'ftjob-1','{"form": "adapter"}',NULL,NULL);
INSERT INTO "models" VALUES(3,'ft:smol:marv:aaaaaaaa:ckpt-step-10','default','checkpoint','smol','runs/run-1/out/checkpoints/step-10/adapter','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000200,'ftjob-1','{"form": "adapter"}',NULL,NULL);
INSERT INTO "models" VALUES(4,'ft:smol::old','default','tuned','smol','adapters/old','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bb822cd15d6c15b0f00a0',1700000001,NULL,NULL,1700000002,1700000003);
CREATE TABLE steps (
    job    TEXT NOT NULL REFERENCES jobs (id),
    step   INTEGER NOT NULL,
    data   TEXT NOT NULL,             -- JSON object
    PRIMARY KEY (job, step)
) STRICT, WITHOUT ROWID;
INSERT INTO "steps" VALUES('ftjob-1',2,'{"step": 2, "total_steps": 30, "train_loss": 9.75}');
CREATE INDEX files_listed ON files (project, seq) WHERE deleted_at IS NULL;
CREATE INDEX files_unpurged ON files (deleted_at) WHERE purged_at IS NULL;
CREATE UNIQUE INDEX models_by_name ON models (name) WHERE deleted_at IS NULL;
CREATE INDEX jobs_listed ON jobs (project, seq);
CREATE INDEX jobs_open ON jobs (seq) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX attempts_live ON attempts (job) WHERE ended_at IS NULL;
CREATE INDEX events_by_job ON events (job, seq);
CREATE UNIQUE INDEX events_once_a_step ON events (job, step) WHERE step IS NOT NULL;
CREATE INDEX inference_workers_live ON inference_workers (id) WHERE ended_at IS NULL;
CREATE INDEX leases_by_attempt ON leases (attempt);
CREATE INDEX leases_by_server ON leases (server);
CREATE INDEX events_said ON events (job, message) WHERE step IS NULL;
CREATE INDEX jobs_counted ON jobs (method, state);
CREATE INDEX jobs_waiting ON jobs (created_at) WHERE state = 'queued';
CREATE INDEX models_by_job ON models (job);
CREATE INDEX checkpoints_unlisted ON checkpoints (job) WHERE model IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('files',4);
INSERT INTO "sqlite_sequence" VALUES('jobs',5);
INSERT INTO "sqlite_sequence" VALUES('models',4);
INSERT INTO "sqlite_sequence" VALUES('attempts',3);
INSERT INTO "sqlite_sequence" VALUES('events',6);
INSERT INTO "sqlite_sequence" VALUES('checkpoints',2);
INSERT INTO "sqlite_sequence" VALUES('inference_workers',2);
COMMIT;
PRAGMA application_id = 1718903808;
PRAGMA user_version = 4;
