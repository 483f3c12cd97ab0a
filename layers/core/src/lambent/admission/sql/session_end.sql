-- Takes rows along whose cookies have expired: an hour later, since the clock that expires cookies
-- is not this one. By the statement's time: clock_timestamp() goes on, so no index serves it.
WITH expired AS (
    DELETE FROM lambent.ended_session WHERE ends_at < statement_timestamp() - interval '1 hour'
)
INSERT INTO lambent.ended_session (id, ends_at) VALUES (%(session)s, to_timestamp(%(ends_s)s))
ON CONFLICT (id) DO NOTHING
