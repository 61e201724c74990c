-- Polls: questions, the choices each offers, and the votes that were cast.

CREATE TABLE question (
    id INTEGER NOT NULL PRIMARY KEY,
    text TEXT NOT NULL CHECK (length(text) > 0),
    -- Times are UTC, as CURRENT_TIMESTAMP writes them: YYYY-MM-DD HH:MM:SS.
    published_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    -- NULL: open for as long as it stands.
    closes_at TEXT CHECK (closes_at > published_at)
) STRICT;

CREATE TABLE choice (
    id INTEGER NOT NULL PRIMARY KEY,
    question_id INTEGER NOT NULL REFERENCES question (id) ON DELETE CASCADE,
    text TEXT NOT NULL CHECK (length(text) > 0),
    -- As many as there are rows for it in `vote`; kept here so that results are quick to read.
    votes INTEGER NOT NULL DEFAULT 0 CHECK (votes >= 0),
    UNIQUE (question_id, text)
) STRICT;

CREATE TABLE vote (
    id INTEGER NOT NULL PRIMARY KEY,
    choice_id INTEGER NOT NULL REFERENCES choice (id) ON DELETE CASCADE,
    -- Chosen by the voter's client: a vote that is sent again counts once.
    idempotency_key TEXT NOT NULL UNIQUE,
    cast_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) STRICT;

CREATE INDEX vote_by_choice ON vote (choice_id);
