-- What is asked often at a million events and a hundred thousand jobs is found without a search.

-- "Was this told before?" looks among a job's messages, and not among its steps.
CREATE INDEX events_said ON events (job, message) WHERE step IS NULL;

-- From here on `steps` keeps only what a resumed attempt has said again: the rest is in the events.
DELETE FROM steps WHERE EXISTS (
    SELECT 1 FROM events
    WHERE events.job = steps.job AND events.step = steps.step AND events.data = steps.data
);

-- Numbers of jobs by state, which every scrape asks for, and the oldest that waits.
CREATE INDEX jobs_counted ON jobs (method, state);
CREATE INDEX jobs_waiting ON jobs (created_at) WHERE state = 'queued';
