-- Adds what one environment has counted since it told last: p_counts is an array with an item a
-- client. Lock order goes on after usage: activity by client.
CREATE OR REPLACE FUNCTION lambent.tally(p_counts jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO lambent.activity AS a
    SELECT date_trunc('hour', clock_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC',
           x.client, x.chats, x.tokens, x.first_tokens, x.first_s, x.slowest_s, x.first_within,
           x.over_limit, x.over_budget, x.no_slot, x.breaker_open
    FROM jsonb_to_recordset(p_counts) AS x (
        client text, chats bigint, tokens bigint, first_tokens bigint, first_s double precision,
        slowest_s double precision, first_within bigint[], over_limit bigint, over_budget bigint,
        no_slot bigint, breaker_open bigint)
    ORDER BY x.client
    ON CONFLICT (hour, client) DO UPDATE SET
        chats = a.chats + excluded.chats,
        tokens = a.tokens + excluded.tokens,
        first_tokens = a.first_tokens + excluded.first_tokens,
        first_s = a.first_s + excluded.first_s,
        slowest_s = greatest(a.slowest_s, excluded.slowest_s),
        first_within = ARRAY(
            SELECT coalesce(w.one, 0) + coalesce(w.other, 0)
            FROM unnest(a.first_within, excluded.first_within)
                 WITH ORDINALITY AS w (one, other, place)
            ORDER BY w.place),
        over_limit = a.over_limit + excluded.over_limit,
        over_budget = a.over_budget + excluded.over_budget,
        no_slot = a.no_slot + excluded.no_slot,
        breaker_open = a.breaker_open + excluded.breaker_open;
    IF random() < 0.004 THEN
        DELETE FROM lambent.activity WHERE hour < clock_timestamp() - interval '40 days';
    END IF;
END $$;
