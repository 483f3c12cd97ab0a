-- What the breakers of the hosts went through.

CREATE TABLE lambent.breaker_change (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host       text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    was        text NOT NULL,
    state      text NOT NULL,
    generation bigint NOT NULL,
    failures   integer NOT NULL,
    by_hand    boolean NOT NULL
);

CREATE INDEX breaker_change_host ON lambent.breaker_change (host, id);
