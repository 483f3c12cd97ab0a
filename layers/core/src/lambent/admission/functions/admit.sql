-- The decision tree in one round trip: 401 -> 403 -> 429 (limit, budget) -> 501 -> 503.
--
-- Hot path: one look-up (key and breaker together), one update (limit), one update (slot), and
-- as few expressions between them as can be: each is set up anew in every transaction.
--
-- Lock order in every function of this schema: client_limit, breaker, slots being made, turn,
-- ticket, usage. Existing slots are taken with SKIP LOCKED only. So no two calls wait for each
-- other.
--
-- A SET clause on a function is undone when the function returns, before the commit it is meant
-- for. So synchronous_commit is set for the transaction, and only where a logged table is written:
-- a transaction that writes unlogged tables alone does not wait for the disk anyway.
CREATE OR REPLACE FUNCTION lambent.decide(
    p_key_id text,              -- null: trusted code, or authentication is off
    p_hash bytea,
    p_scope text,               -- null: any good key may; without a key, 'begun': of a turn
                                -- that has begun and is let finish, whatever the budget says
    p_client text,              -- who asks, where p_key_id is null
    p_quota integer,            -- requests a window; null: not limited
    p_window_s double precision,
    p_agent_exists boolean,
    p_host text,                -- null: no model is going to be called
    p_slots integer,            -- generations at once on the host; null: no slot wanted
    p_token text,               -- names slot, probe or ticket
    p_lease_s double precision,
    p_ticket_s double precision
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_usual boolean;            -- scope held, and no need to write down the use
    v_state text;
    v_budgeted boolean;         -- the client has a budget: only then is it looked at
    r_verdict text;
    r_client text;
    r_key_name text;
    r_scopes text;
    r_quota integer;
    r_tat_s text;               -- seconds until the client's limit is whole again
    r_retry_after_s text;
    r_generation text;
    r_slot text;
    r_place text;
    r_estimated_s text;
    r_budget text;              -- the hard budget that refuses, or the soft one that is passed
BEGIN
    <<decide>>
    BEGIN
        IF p_key_id IS NOT NULL THEN
            SELECT k.client, k.name, array_to_string(k.scopes, ' '), coalesce(k.quota, p_quota),
                   p_scope = ANY (k.scopes)
                   AND k.last_used_at > clock_timestamp() - interval '1 minute',
                   b.state, b.generation::text,
                   EXISTS (SELECT FROM lambent.budget g WHERE g.client = k.client)
            INTO r_client, r_key_name, r_scopes, r_quota, v_usual, v_state, r_generation,
                 v_budgeted
            FROM lambent.api_key k
            LEFT JOIN lambent.breaker b ON b.host = p_host
            WHERE k.id = p_key_id AND k.revoked_at IS NULL AND k.expires_at > clock_timestamp()
              AND (k.secret_hash = p_hash
                   OR k.previous_hash = p_hash AND k.previous_until > clock_timestamp());
            IF NOT FOUND THEN
                r_verdict := 'unauthenticated';
                EXIT decide;
            END IF;
            IF v_usual IS NOT TRUE THEN
                PERFORM lambent.mark_used(p_key_id);
                IF p_scope <> ALL (string_to_array(r_scopes, ' ')) AND NOT (
                    p_scope = 'admin:read' AND 'admin' = ANY (string_to_array(r_scopes, ' '))) THEN
                    r_verdict := 'forbidden';
                    EXIT decide;
                END IF;
            END IF;
        ELSE
            r_client := p_client;
            r_quota := p_quota;
            SELECT b.state, b.generation::text INTO v_state, r_generation
            FROM lambent.breaker b WHERE b.host = p_host;
            v_budgeted := p_scope IS DISTINCT FROM 'begun'
                          AND EXISTS (SELECT FROM lambent.budget g WHERE g.client = p_client);
        END IF;

        IF p_quota IS NOT NULL THEN
            -- From the target row itself: after waiting for another commit the server judges it
            -- again on its newest version. Read through a join or subselect, too many pass.
            UPDATE lambent.client_limit l
            SET tat = greatest(l.tat, clock_timestamp())
                      + make_interval(secs => p_window_s / r_quota)
            WHERE l.client = r_client
              AND l.tat <= clock_timestamp()
                           + make_interval(secs => p_window_s / r_quota) * (r_quota - 1)
            RETURNING extract(epoch FROM l.tat - clock_timestamp())::text INTO r_tat_s;
            IF NOT FOUND THEN
                SELECT f.r_verdict, f.r_tat_s, f.r_retry_after_s
                INTO r_verdict, r_tat_s, r_retry_after_s
                FROM lambent.first_request(r_client, r_quota, p_window_s) f;
                EXIT decide WHEN r_verdict IS NOT NULL;
            END IF;
        END IF;

        IF NOT p_agent_exists OR p_host IS NULL OR p_slots IS NULL OR v_state <> 'closed'
           OR v_budgeted THEN
            IF v_budgeted AND p_host IS NOT NULL THEN
                r_budget := lambent.meet_budget(r_client, p_key_id);
                IF r_budget::json ->> 'level' = 'hard' THEN
                    r_verdict := 'over_budget';
                    r_retry_after_s := r_budget::json ->> 'resets_in_s';
                    EXIT decide;
                END IF;
            END IF;
            IF NOT p_agent_exists THEN
                r_verdict := 'unknown_agent';
                EXIT decide;
            END IF;
            IF v_state <> 'closed' THEN
                SELECT p.r_verdict, p.r_generation, p.r_retry_after_s
                INTO r_verdict, r_generation, r_retry_after_s
                FROM lambent.take_probe(p_host, p_token, p_lease_s) p;
                EXIT decide WHEN r_verdict <> 'closed';
            END IF;
            IF p_host IS NULL OR p_slots IS NULL THEN
                r_verdict := 'admitted';
                EXIT decide;
            END IF;
        END IF;

        UPDATE lambent.slot s
        SET token = p_token, client = r_client, taken_at = clock_timestamp(),
            lease_until = clock_timestamp() + make_interval(secs => p_lease_s)
        WHERE s.host = p_host AND s.number = (
            SELECT f.number FROM lambent.slot f
            WHERE f.host = p_host AND f.number < p_slots AND f.lease_until <= clock_timestamp()
              AND NOT EXISTS (
                  SELECT FROM lambent.ticket t
                  WHERE t.host = p_host AND t.lease_until > clock_timestamp())
              AND NOT EXISTS (
                  SELECT FROM lambent.ticket t
                  WHERE t.hosts IS NOT NULL AND p_host = ANY (t.hosts)
                    AND t.lease_until > clock_timestamp())
            LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING 'admitted', s.number::text INTO r_verdict, r_slot;
        IF NOT FOUND THEN
            SELECT q.r_verdict, q.r_generation, q.r_retry_after_s,
                   q.r_slot, q.r_place, q.r_estimated_s
            INTO r_verdict, r_generation, r_retry_after_s, r_slot, r_place, r_estimated_s
            FROM lambent.await_slot(p_host, r_client, p_slots, p_token, p_lease_s, p_ticket_s) q;
        END IF;
    END;
    -- One array, not twelve columns: describing and loading columns cost more than deciding.
    RETURN ARRAY[
        r_verdict, r_client, r_key_name, r_scopes, r_quota::text, r_tat_s, r_retry_after_s,
        r_generation, r_slot, r_place, r_estimated_s, r_budget];
END $$;

-- The same for the code of the version before, which knows of no budgets: during a deploy, and
-- after a roll-back, it still asks like this.
CREATE OR REPLACE FUNCTION lambent.admit(
    p_key_id text, p_hash bytea, p_scope text, p_client text, p_quota integer,
    p_window_s double precision, p_agent_exists boolean, p_host text, p_slots integer,
    p_token text, p_lease_s double precision, p_ticket_s double precision
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_row text[] := lambent.decide(
        p_key_id, p_hash, p_scope, p_client, p_quota, p_window_s, p_agent_exists, p_host, p_slots,
        p_token, p_lease_s, p_ticket_s);
BEGIN
    IF v_row[1] = 'over_budget' THEN
        v_row[1] := 'rate_limited';
    END IF;
    RETURN v_row[1:11];
END $$;

-- A client's first request (no verdict), or one past its limit: told apart by the client's row.
CREATE OR REPLACE FUNCTION lambent.first_request(
    p_client text, p_quota integer, p_window_s double precision,
    OUT r_verdict text, OUT r_tat_s double precision, OUT r_retry_after_s double precision
) LANGUAGE plpgsql AS $$
DECLARE
    v_step interval := make_interval(secs => p_window_s / p_quota);
    v_slack interval := v_step * (p_quota - 1);
    v_tat timestamptz;
BEGIN
    IF NOT EXISTS (SELECT FROM lambent.client_limit l WHERE l.client = p_client) THEN
        INSERT INTO lambent.client_limit AS l (client, tat)
        VALUES (p_client, clock_timestamp() + v_step)
        ON CONFLICT (client) DO UPDATE SET tat = greatest(l.tat, clock_timestamp()) + v_step
            WHERE l.tat <= clock_timestamp() + v_slack
        RETURNING extract(epoch FROM l.tat - clock_timestamp()) INTO r_tat_s;
    ELSE
        -- Once more: the row may be there only since another first request committed it.
        UPDATE lambent.client_limit l
        SET tat = greatest(l.tat, clock_timestamp()) + v_step
        WHERE l.client = p_client AND l.tat <= clock_timestamp() + v_slack
        RETURNING extract(epoch FROM l.tat - clock_timestamp()) INTO r_tat_s;
    END IF;
    IF FOUND THEN
        RETURN;
    END IF;
    r_verdict := 'rate_limited';
    SELECT l.tat INTO v_tat FROM lambent.client_limit l WHERE l.client = p_client;
    r_tat_s := extract(epoch FROM v_tat - clock_timestamp());
    r_retry_after_s := extract(epoch FROM v_tat - v_slack - clock_timestamp());
END $$;

-- At most once a minute; a call that finds the row locked leaves it to the one that locked it.
CREATE OR REPLACE FUNCTION lambent.mark_used(p_key_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE lambent.api_key SET last_used_at = clock_timestamp()
    WHERE id = (
        SELECT k.id FROM lambent.api_key k
        WHERE k.id = p_key_id AND k.last_used_at < clock_timestamp() - interval '1 minute'
        FOR UPDATE SKIP LOCKED);
END $$;
