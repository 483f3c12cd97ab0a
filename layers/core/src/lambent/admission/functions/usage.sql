-- Booking what turns used, and what their budgets say to it. Days and months are UTC's.

-- Books a turn's use so far: p_entries is an array of {model, requests, broken, prompt_tokens,
-- completion_tokens, estimated_tokens, model_s, cost}, each cumulative; p_seq rises with each
-- booking of the turn. A turn's use belongs to the day of its first booking.
-- Returns the budgets that this booking passed, each as a JSON text.
--
-- Lock order goes on after the slots: usage_turn and usage_day by model, usage_total client first.
CREATE OR REPLACE FUNCTION lambent.book_usage(
    p_turn text, p_seq bigint, p_client text, p_key_id text, p_agent text, p_entries jsonb
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_day date;
    v_tokens bigint := 0;
    v_cost numeric := 0;
    v_changed boolean := false;
    e record;
    b lambent.usage_turn;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT min(t.day) INTO v_day FROM lambent.usage_turn t WHERE t.turn = p_turn;
    v_day := coalesce(v_day, (clock_timestamp() AT TIME ZONE 'UTC')::date);

    FOR e IN
        SELECT * FROM jsonb_to_recordset(p_entries) AS x (
            model text, requests bigint, broken bigint, prompt_tokens bigint,
            completion_tokens bigint, estimated_tokens bigint, model_s double precision,
            cost numeric)
        ORDER BY x.model
    LOOP
        INSERT INTO lambent.usage_turn (turn, model, day) VALUES (p_turn, e.model, v_day)
        ON CONFLICT (turn, model) DO NOTHING;
        SELECT * INTO b FROM lambent.usage_turn t
        WHERE t.turn = p_turn AND t.model = e.model FOR UPDATE;
        CONTINUE WHEN b.seq >= p_seq;
        UPDATE lambent.usage_turn t
        SET seq = p_seq, requests = e.requests, broken = e.broken,
            prompt_tokens = e.prompt_tokens, completion_tokens = e.completion_tokens,
            estimated_tokens = e.estimated_tokens, model_s = e.model_s, cost = e.cost
        WHERE t.turn = p_turn AND t.model = e.model;
        INSERT INTO lambent.usage_day AS u VALUES (
            v_day, p_client, p_key_id, p_agent, e.model,
            e.requests - b.requests, e.broken - b.broken,
            e.prompt_tokens - b.prompt_tokens, e.completion_tokens - b.completion_tokens,
            e.estimated_tokens - b.estimated_tokens, e.model_s - b.model_s, e.cost - b.cost)
        ON CONFLICT (client, day, key_id, agent, model) DO UPDATE
        SET requests = u.requests + excluded.requests, broken = u.broken + excluded.broken,
            prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = u.completion_tokens + excluded.completion_tokens,
            estimated_tokens = u.estimated_tokens + excluded.estimated_tokens,
            model_s = u.model_s + excluded.model_s, cost = u.cost + excluded.cost;
        v_tokens := v_tokens
            + (e.prompt_tokens + e.completion_tokens + e.estimated_tokens)
            - (b.prompt_tokens + b.completion_tokens + b.estimated_tokens);
        v_cost := v_cost + e.cost - b.cost;
        v_changed := true;
    END LOOP;

    IF NOT v_changed THEN
        RETURN '{}';
    END IF;
    PERFORM lambent.add_to_total('client', p_client, v_day, v_tokens, v_cost);
    IF p_key_id <> '' THEN
        PERFORM lambent.add_to_total('key', p_key_id, v_day, v_tokens, v_cost);
    END IF;
    IF random() < 0.004 THEN
        DELETE FROM lambent.usage_turn WHERE ctid = ANY (ARRAY(
            SELECT t.ctid FROM lambent.usage_turn t WHERE t.day < v_day - 1
            LIMIT 2000 FOR UPDATE SKIP LOCKED));
    END IF;
    RETURN ARRAY(
        SELECT lambent.budget_text(s, level)
        FROM lambent.budget_states(p_client, p_key_id) s,
             LATERAL (VALUES ('soft', s.soft), ('hard', s.hard)) AS l (level, edge),
             LATERAL (SELECT CASE s.unit WHEN 'tokens' THEN v_tokens ELSE v_cost END) AS d (added)
        WHERE s.used >= l.edge AND s.used - d.added < l.edge);
END $$;

-- A turn of an earlier day counts only where that day, or its month, is still the present one.
CREATE OR REPLACE FUNCTION lambent.add_to_total(
    p_kind text, p_owner text, p_day date, p_tokens bigint, p_cost numeric
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO lambent.usage_total AS t
    VALUES (p_kind, p_owner, p_day, p_tokens, p_cost,
            date_trunc('month', p_day)::date, p_tokens, p_cost)
    ON CONFLICT (kind, owner) DO UPDATE SET
        day = greatest(t.day, excluded.day),
        day_tokens = CASE WHEN t.day > excluded.day THEN t.day_tokens
            ELSE excluded.day_tokens + CASE t.day WHEN excluded.day THEN t.day_tokens ELSE 0 END
            END,
        day_cost = CASE WHEN t.day > excluded.day THEN t.day_cost
            ELSE excluded.day_cost + CASE t.day WHEN excluded.day THEN t.day_cost ELSE 0 END END,
        month = greatest(t.month, excluded.month),
        month_tokens = CASE WHEN t.month > excluded.month THEN t.month_tokens
            ELSE excluded.month_tokens
                 + CASE t.month WHEN excluded.month THEN t.month_tokens ELSE 0 END END,
        month_cost = CASE WHEN t.month > excluded.month THEN t.month_cost
            ELSE excluded.month_cost
                 + CASE t.month WHEN excluded.month THEN t.month_cost ELSE 0 END END
$$;

-- The budgets that bind a client's call with this key (of the client alone, where it is empty),
-- with what is used in their present period.
CREATE OR REPLACE FUNCTION lambent.budget_states(p_client text, p_key_id text)
RETURNS TABLE (
    kind text, owner text, period text, unit text, soft numeric, hard numeric,
    used numeric, resets_in_s double precision
) LANGUAGE sql STABLE AS $$
    SELECT b.kind, b.owner, b.period, b.unit, b.soft, b.hard,
           coalesce(CASE
               WHEN b.period = 'day' AND t.day = n.today
               THEN CASE b.unit WHEN 'tokens' THEN t.day_tokens ELSE t.day_cost END
               WHEN b.period = 'month' AND t.month = date_trunc('month', n.today)::date
               THEN CASE b.unit WHEN 'tokens' THEN t.month_tokens ELSE t.month_cost END
           END, 0),
           extract(epoch FROM CASE b.period
               WHEN 'day' THEN n.today + interval '1 day'
               ELSE date_trunc('month', n.today::timestamp) + interval '1 month'
           END - n.moment)::double precision
    FROM (SELECT m AS moment, m::date AS today
          FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS m) c) n,
         lambent.budget b
    LEFT JOIN lambent.usage_total t ON t.kind = b.kind AND t.owner = b.owner
    -- Both by the primary key: a client may have thousands of keys with budgets of their own.
    WHERE b.kind = 'client' AND b.owner = p_client OR b.kind = 'key' AND b.owner = p_key_id
$$;

CREATE OR REPLACE FUNCTION lambent.budget_text(s record, p_level text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object(
        'level', p_level, 'kind', s.kind, 'owner', s.owner, 'period', s.period, 'unit', s.unit,
        'limit', CASE p_level WHEN 'soft' THEN s.soft ELSE s.hard END, 'used', s.used,
        'resets_in_s', s.resets_in_s)::text;
END $$;

-- The budget that a call meets: the hard one that is used up longest, else a soft one, else null.
CREATE OR REPLACE FUNCTION lambent.meet_budget(p_client text, p_key_id text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT lambent.budget_text(s, CASE WHEN s.used >= s.hard THEN 'hard' ELSE 'soft' END)
    FROM lambent.budget_states(p_client, coalesce(p_key_id, '')) s
    WHERE s.used >= s.hard OR s.used >= s.soft
    ORDER BY coalesce(s.used >= s.hard, false) DESC, s.resets_in_s DESC
    LIMIT 1
$$;
