-- What was used, by day; what makes booking it idempotent; running totals; and budgets.
--
-- Every booking of a turn is cumulative and numbered: a repeated, late or lost one changes nothing
-- that a later one does not put right. Tokens are what the model server reported; where a
-- generation broke off, which it then never reported, the pieces that came, and for its prompt an
-- estimate in a column of its own.

CREATE TABLE lambent.usage_day (
    day               date NOT NULL,
    client            text NOT NULL,
    key_id            text NOT NULL,   -- empty: a run's own, or authentication is off
    agent             text NOT NULL,   -- empty: the model itself was asked
    model             text NOT NULL,
    requests          bigint NOT NULL DEFAULT 0,
    broken            bigint NOT NULL DEFAULT 0,
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    estimated_tokens  bigint NOT NULL DEFAULT 0,
    model_s           double precision NOT NULL DEFAULT 0,
    cost              numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (client, day, key_id, agent, model)
) WITH (fillfactor = 50);

CREATE INDEX usage_day_day ON lambent.usage_day (day);

-- One row a turn and model, kept for two days: what has been booked of it so far.
CREATE TABLE lambent.usage_turn (
    turn              text NOT NULL,
    model             text NOT NULL,
    day               date NOT NULL,
    seq               bigint NOT NULL DEFAULT 0,
    requests          bigint NOT NULL DEFAULT 0,
    broken            bigint NOT NULL DEFAULT 0,
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    estimated_tokens  bigint NOT NULL DEFAULT 0,
    model_s           double precision NOT NULL DEFAULT 0,
    cost              numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (turn, model)
) WITH (fillfactor = 70);

CREATE INDEX usage_turn_day ON lambent.usage_turn (day);

-- Of the present day and month, so that a budget is checked with one look.
CREATE TABLE lambent.usage_total (
    kind         text NOT NULL CHECK (kind IN ('client', 'key')),
    owner        text NOT NULL,
    day          date NOT NULL,
    day_tokens   bigint NOT NULL,
    day_cost     numeric NOT NULL,
    month        date NOT NULL,
    month_tokens bigint NOT NULL,
    month_cost   numeric NOT NULL,
    PRIMARY KEY (kind, owner)
) WITH (fillfactor = 50);

CREATE TABLE lambent.budget (
    kind       text NOT NULL CHECK (kind IN ('client', 'key')),
    owner      text NOT NULL,
    period     text NOT NULL CHECK (period IN ('day', 'month')),
    unit       text NOT NULL CHECK (unit IN ('tokens', 'money')),
    client     text NOT NULL,          -- of the key, or the owner itself
    soft       numeric CHECK (soft >= 0),
    hard       numeric CHECK (hard >= 0),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, owner, period, unit),
    CHECK (soft IS NOT NULL OR hard IS NOT NULL)
);

CREATE INDEX budget_client ON lambent.budget (client);
