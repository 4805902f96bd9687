-- What is kept for long, and what is found again after any end.

-- A job shows the hash of the model that it made, even when that is deleted.
CREATE INDEX models_by_job ON models (job);
ALTER TABLE jobs ADD COLUMN fine_tuned_model_sha256 TEXT;
UPDATE jobs SET fine_tuned_model_sha256 = (
    SELECT sha256 FROM models WHERE models.job = jobs.id AND kind = 'tuned' ORDER BY seq DESC LIMIT 1
) WHERE state = 'succeeded';

-- Resume points of jobs that are over are looked for every hour.
CREATE INDEX checkpoints_unlisted ON checkpoints (job) WHERE model IS NULL;

-- A lost job waits before its next attempt, also across a restart; and what it was lost for decides
-- whether it gets one.
ALTER TABLE jobs ADD COLUMN retry_at INTEGER;        -- Unix seconds; NULL: at once
ALTER TABLE attempts ADD COLUMN ending_code TEXT;    -- of a lost attempt, as the job's error_code
