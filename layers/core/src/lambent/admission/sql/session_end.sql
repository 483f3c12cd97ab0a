-- Takes rows along whose cookies have expired: an hour later, since the clock that expires cookies
-- is not this one.
WITH expired AS (
    DELETE FROM lambent.ended_session WHERE ends_at < clock_timestamp() - interval '1 hour'
)
INSERT INTO lambent.ended_session (id, ends_at) VALUES (%(session)s, to_timestamp(%(ends_s)s))
ON CONFLICT (id) DO NOTHING
