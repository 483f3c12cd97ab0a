-- The admin pages: what signs their sessions, what ends them, and the record of what admins did.

-- Every environment of every function reads the same bytes; nobody has to deploy a secret.
CREATE TABLE lambent.signing_secret (
    name text PRIMARY KEY,
    secret bytea NOT NULL CHECK (octet_length(secret) = 32)
);

-- Two random UUIDs hold 244 random bits, from the server's own strong source.
INSERT INTO lambent.signing_secret (name, secret)
VALUES ('pages', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- Raised by "sign out everywhere": sessions of an earlier epoch are dead.
ALTER TABLE lambent.api_key ADD COLUMN session_epoch integer NOT NULL DEFAULT 0;

-- GCRA over failed sign-ins of one address; losing it is a fresh start.
CREATE UNLOGGED TABLE lambent.sign_in_limit (
    address text PRIMARY KEY,
    tat     timestamptz NOT NULL
);

-- Written before the action, completed after it: an outcome of null is a request that died.
CREATE TABLE lambent.audit (
    id         text PRIMARY KEY,            -- a ULID: the order of ids is the order in time
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_id     text,                        -- null: authentication is off
    key_name   text,
    client     text NOT NULL,
    action     text NOT NULL,
    target     text NOT NULL,
    via        text NOT NULL,               -- api or page
    address    text NOT NULL,
    request_id text NOT NULL,
    outcome    integer                      -- the HTTP status
);

CREATE INDEX audit_key ON lambent.audit (key_id, id);
CREATE INDEX audit_action ON lambent.audit (action, id);
CREATE INDEX audit_target ON lambent.audit (target, id);
