-- What happened at the gate by hour and client: turns that were answered, how soon their first
-- token came, and what was refused. For charts: an environment that dies forgets its last seconds.

CREATE TABLE lambent.activity (
    hour          timestamptz NOT NULL,
    client        text NOT NULL,
    chats         bigint NOT NULL DEFAULT 0,
    tokens        bigint NOT NULL DEFAULT 0,
    first_tokens  bigint NOT NULL DEFAULT 0,  -- chats that had one
    first_s       double precision NOT NULL DEFAULT 0,
    slowest_s     double precision NOT NULL DEFAULT 0,
    first_within  bigint[] NOT NULL DEFAULT '{}',  -- by the edges that the code names
    over_limit    bigint NOT NULL DEFAULT 0,
    over_budget   bigint NOT NULL DEFAULT 0,
    no_slot       bigint NOT NULL DEFAULT 0,
    breaker_open  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, client)
) WITH (fillfactor = 50);
