-- What an administrator does to polls, and when.

-- NULL: open, unless `closes_at` has passed.
ALTER TABLE question ADD COLUMN closed_at TEXT;

CREATE TABLE history (
    id INTEGER NOT NULL PRIMARY KEY,
    question_id INTEGER NOT NULL REFERENCES question (id) ON DELETE CASCADE,
    happened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    actor TEXT NOT NULL CHECK (length(actor) > 0),
    action TEXT NOT NULL CHECK (action IN ('created', 'edited', 'closed', 'reopened')),
    detail TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX history_by_question ON history (question_id);
