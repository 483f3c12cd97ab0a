-- Keys, limits, the shared breaker and the model slots.
--
-- What must survive a crash of the server is logged: keys, and the breaker with its generation.
-- What a crash may empty is unlogged, so that the hot path writes no WAL: a lost limit row is a
-- full limit, lost slots are made again, lost tickets are drawn again by those who still wait.

CREATE TABLE lambent.api_key (
    id             text PRIMARY KEY,
    -- SHA-256 of the secret part. The secret itself is nowhere.
    secret_hash    bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    -- The secret before the last rotation, good until previous_until.
    previous_hash  bytea CHECK (octet_length(previous_hash) = 32),
    previous_until timestamptz NOT NULL DEFAULT '-infinity',
    name           text NOT NULL,
    client         text NOT NULL,
    scopes         text[] NOT NULL,
    -- Requests a window for this key, instead of the default.
    quota          integer CHECK (quota > 0),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL DEFAULT 'infinity',
    revoked_at     timestamptz,
    last_used_at   timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 80);

CREATE INDEX api_key_client ON lambent.api_key (client, id);

-- GCRA: the theoretical arrival time is the whole state of a limit.
CREATE UNLOGGED TABLE lambent.client_limit (
    client text PRIMARY KEY,
    tat    timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- No row: closed, generation 0. Every change of state raises the generation.
CREATE TABLE lambent.breaker (
    host        text PRIMARY KEY,
    state       text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half_open')),
    generation  bigint NOT NULL DEFAULT 0,
    -- In a row, while closed; and successful probes, while half open.
    failures    integer NOT NULL DEFAULT 0,
    successes   integer NOT NULL DEFAULT 0,
    open_until  timestamptz NOT NULL DEFAULT '-infinity',
    probe       text,
    probe_until timestamptz NOT NULL DEFAULT '-infinity',
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Model slots: leased rows. A row is free once lease_until has passed.
CREATE UNLOGGED TABLE lambent.slot (
    host        text NOT NULL,
    number      integer NOT NULL,
    token       text,
    client      text,
    taken_at    timestamptz,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    -- How long this slot was held lately (moving average): the basis of estimated waits.
    held_s      double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (host, number)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Who waits for a slot: leased, renewed at each look; ids give the order of arrival.
CREATE UNLOGGED TABLE lambent.ticket (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    token       text PRIMARY KEY,
    host        text NOT NULL,
    client      text NOT NULL,
    lease_until timestamptz NOT NULL
);

CREATE INDEX ticket_host ON lambent.ticket (host, client, id);

-- How many slots a client has been given through tickets: the least served goes next.
CREATE UNLOGGED TABLE lambent.turn (
    host   text NOT NULL,
    client text NOT NULL,
    served bigint NOT NULL,
    PRIMARY KEY (host, client)
);

CREATE INDEX turn_served ON lambent.turn (host, served);
