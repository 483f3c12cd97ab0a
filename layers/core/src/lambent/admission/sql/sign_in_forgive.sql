-- A good key gives its try back; rows that no longer say anything go with it. By the statement's
-- time, which an index can serve.
WITH swept AS (
    DELETE FROM lambent.sign_in_limit
    WHERE address <> %(address)s AND tat < statement_timestamp() - interval '1 hour'
)
UPDATE lambent.sign_in_limit SET tat = tat - make_interval(secs => %(step_s)s)
WHERE address = %(address)s
