-- Sessions of the admin pages that were signed out by themselves, each until its cookie has expired:
-- a copy of that cookie is no session any more. Logged, since a crash must not revive one.
CREATE TABLE lambent.ended_session (
    id      text PRIMARY KEY,
    ends_at timestamptz NOT NULL
);

CREATE INDEX ended_session_ends ON lambent.ended_session (ends_at);
