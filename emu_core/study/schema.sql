-- The tables of study.sqlite. What must never happen is forbidden here, whatever a program does:
--
-- * a sixth vote: a vote needs a seat, a pair has as many seats as raters, a seat holds one rater;
-- * two votes of one rater on a pair: a rater has one seat of a pair, a seat has one vote;
-- * a changed or deleted vote.
--
-- A lease is a seat with a time of expiry; a vote takes the expiry away.

CREATE TABLE study (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    uid TEXT NOT NULL,
    title TEXT NOT NULL,
    raters INTEGER NOT NULL CHECK (raters BETWEEN 1 AND 99 AND raters % 2 = 1),
    lease_ms INTEGER NOT NULL CHECK (lease_ms > 0),
    tokens_required INTEGER NOT NULL DEFAULT 0 CHECK (tokens_required IN (0, 1)),
    secret TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    signup_open INTEGER NOT NULL DEFAULT 1 CHECK (signup_open IN (0, 1)),
    note TEXT NOT NULL DEFAULT ''
);
CREATE TABLE systems (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name <> ''));
CREATE TABLE prompts (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE CHECK (key <> ''), text TEXT NOT NULL);
CREATE TABLE videos (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts (id),
    system_id INTEGER NOT NULL REFERENCES systems (id),
    file TEXT UNIQUE,
    sha256 TEXT NOT NULL,
    width INTEGER, height INTEGER, length_ms INTEGER,
    UNIQUE (prompt_id, system_id),
    UNIQUE (id, prompt_id)
);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts (id),
    first_id INTEGER NOT NULL,
    second_id INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    CHECK (first_id <> second_id),
    FOREIGN KEY (first_id, prompt_id) REFERENCES videos (id, prompt_id),
    FOREIGN KEY (second_id, prompt_id) REFERENCES videos (id, prompt_id)
);
CREATE UNIQUE INDEX pair_once ON pairs (min(first_id, second_id), max(first_id, second_id));
CREATE INDEX pairs_open ON pairs (id) WHERE done = 0;
CREATE TABLE raters (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE CHECK (name <> ''),
    token_hash TEXT UNIQUE,
    created_ms INTEGER NOT NULL
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    rater_id INTEGER NOT NULL REFERENCES raters (id),
    secret_hash TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE seats (
    pair_id INTEGER NOT NULL REFERENCES pairs (id),
    seat INTEGER NOT NULL,
    rater_id INTEGER NOT NULL REFERENCES raters (id),
    expires_ms INTEGER,
    draft TEXT,
    watched INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (pair_id, seat),
    UNIQUE (pair_id, rater_id),
    UNIQUE (pair_id, seat, rater_id)
);
CREATE UNIQUE INDEX one_lease_a_rater ON seats (rater_id) WHERE expires_ms IS NOT NULL;
CREATE INDEX seats_of_rater ON seats (rater_id);
CREATE TABLE votes (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    pair_id INTEGER NOT NULL,
    seat INTEGER NOT NULL,
    rater_id INTEGER NOT NULL,
    shown_left TEXT NOT NULL CHECK (shown_left IN ('first', 'second')),
    quality TEXT NOT NULL CHECK (quality IN ('first', 'second')),
    quality_reasons TEXT NOT NULL CHECK (quality_reasons <> ''),
    quality_ms INTEGER NOT NULL CHECK (quality_ms >= 0),
    faithfulness TEXT NOT NULL CHECK (faithfulness IN ('first', 'second')),
    faithfulness_reasons TEXT NOT NULL CHECK (faithfulness_reasons <> ''),
    faithfulness_ms INTEGER NOT NULL CHECK (faithfulness_ms >= 0),
    time_ms INTEGER NOT NULL,
    UNIQUE (pair_id, rater_id),
    UNIQUE (pair_id, seat),
    FOREIGN KEY (pair_id, seat, rater_id) REFERENCES seats (pair_id, seat, rater_id)
);
CREATE INDEX votes_of_rater ON votes (rater_id);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    status INTEGER NOT NULL,
    rater TEXT,
    request TEXT NOT NULL,
    sentence TEXT NOT NULL
);

CREATE TRIGGER no_more_seats BEFORE INSERT ON seats
WHEN NEW.seat NOT BETWEEN 1 AND (SELECT raters FROM study)
BEGIN SELECT RAISE(ABORT, 'this pair has no more seats'); END;
CREATE TRIGGER seats_stay BEFORE UPDATE OF pair_id, seat, rater_id ON seats
BEGIN SELECT RAISE(ABORT, 'a seat is not moved'); END;
CREATE TRIGGER no_more_votes BEFORE INSERT ON votes
WHEN (SELECT count(*) FROM votes WHERE pair_id = NEW.pair_id) >= (SELECT raters FROM study)
BEGIN SELECT RAISE(ABORT, 'this pair is closed'); END;
CREATE TRIGGER vote_ends_lease AFTER INSERT ON votes
BEGIN
    UPDATE seats SET expires_ms = NULL, draft = NULL WHERE pair_id = NEW.pair_id AND seat = NEW.seat;
    UPDATE pairs SET done = 1 WHERE id = NEW.pair_id
        AND (SELECT count(*) FROM votes WHERE pair_id = NEW.pair_id) >= (SELECT raters FROM study);
END;
CREATE TRIGGER votes_are_final BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'a vote is not changed'); END;
CREATE TRIGGER votes_are_kept BEFORE DELETE ON votes BEGIN SELECT RAISE(ABORT, 'a vote is not deleted'); END;
CREATE TRIGGER raters_are_fixed BEFORE UPDATE OF raters, uid ON study BEGIN SELECT RAISE(ABORT, 'fixed for this study'); END;
