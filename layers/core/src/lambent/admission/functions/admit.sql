-- The decision tree in one round trip: 401 -> 403 -> 429 -> 501 -> 503.
--
-- Hot path: one look-up (key and breaker together), one update (limit), one update (slot).
--
-- Lock order in every function of this schema: client_limit, breaker, slots being made, turn,
-- ticket. Existing slots are taken with SKIP LOCKED only. So no two calls wait for each other.
--
-- A SET clause on a function is undone when the function returns, before the commit it is meant
-- for. So synchronous_commit is set for the transaction, and only where a logged table is written:
-- a transaction that writes unlogged tables alone does not wait for the disk anyway.
CREATE OR REPLACE FUNCTION lambent.admit(
    p_key_id text,              -- null: trusted code, or authentication is off
    p_hash bytea,
    p_scope text,               -- null: any good key may
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
    v_now timestamptz := clock_timestamp();
    v_used_at timestamptz;
    v_state text;
    v_step interval;
    v_slack interval;
    v_tat timestamptz;
    v_passed boolean;
    r_verdict text;
    r_client text;
    r_key_name text;
    r_scopes text[];
    r_quota integer;
    r_tat_s double precision;           -- seconds until the client's limit is whole again
    r_retry_after_s double precision;
    r_generation bigint;
    r_slot integer;
    r_place integer;
    r_estimated_s double precision;
BEGIN
    <<decide>>
    BEGIN
        IF p_key_id IS NOT NULL THEN
            SELECT k.client, k.name, k.scopes, coalesce(k.quota, p_quota), k.last_used_at,
                   b.state, b.generation
            INTO r_client, r_key_name, r_scopes, r_quota, v_used_at, v_state, r_generation
            FROM lambent.api_key k LEFT JOIN lambent.breaker b ON b.host = p_host
            WHERE k.id = p_key_id AND k.revoked_at IS NULL AND k.expires_at > v_now
              AND (k.secret_hash = p_hash OR k.previous_hash = p_hash AND k.previous_until > v_now);
            IF NOT FOUND THEN
                r_verdict := 'unauthenticated';
                EXIT decide;
            END IF;
            IF v_used_at < v_now - interval '1 minute' THEN
                PERFORM lambent.mark_used(p_key_id);
            END IF;
            IF p_scope IS NOT NULL AND p_scope <> ALL (r_scopes)
               AND NOT (p_scope = 'admin:read' AND 'admin' = ANY (r_scopes)) THEN
                r_verdict := 'forbidden';
                EXIT decide;
            END IF;
        ELSE
            r_client := p_client;
            r_quota := p_quota;
            SELECT b.state, b.generation INTO v_state, r_generation
            FROM lambent.breaker b WHERE b.host = p_host;
        END IF;

        IF p_quota IS NOT NULL THEN
            v_step := make_interval(secs => p_window_s / r_quota);
            v_slack := v_step * (r_quota - 1);
            -- From the target row itself: after waiting for another commit the server judges it
            -- again on its newest version. Read through a join or subselect, too many pass.
            UPDATE lambent.client_limit l
            SET tat = greatest(l.tat, clock_timestamp()) + v_step
            WHERE l.client = r_client AND l.tat <= clock_timestamp() + v_slack
            RETURNING l.tat INTO v_tat;
            IF NOT FOUND THEN
                SELECT f.r_passed, f.r_tat INTO v_passed, v_tat
                FROM lambent.first_request(r_client, v_step, v_slack) f;
                IF NOT v_passed THEN
                    r_verdict := 'rate_limited';
                    r_retry_after_s := extract(epoch FROM v_tat - v_slack - clock_timestamp());
                END IF;
            END IF;
            r_tat_s := extract(epoch FROM v_tat - clock_timestamp());
            IF r_verdict IS NOT NULL THEN
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
            IF r_verdict <> 'closed' THEN
                EXIT decide;
            END IF;
        END IF;

        r_verdict := 'admitted';
        IF p_host IS NULL OR p_slots IS NULL THEN
            EXIT decide;
        END IF;
        UPDATE lambent.slot s
        SET token = p_token, client = r_client, taken_at = v_now,
            lease_until = clock_timestamp() + make_interval(secs => p_lease_s)
        WHERE s.host = p_host AND s.number = (
            SELECT f.number FROM lambent.slot f
            WHERE f.host = p_host AND f.number < p_slots AND f.lease_until <= v_now
              AND NOT EXISTS (
                  SELECT FROM lambent.ticket t WHERE t.host = p_host AND t.lease_until > v_now)
            ORDER BY f.number LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING s.number INTO r_slot;
        IF NOT FOUND THEN
            SELECT q.r_verdict, q.r_generation, q.r_retry_after_s, q.r_slot, q.r_place, q.r_estimated_s
            INTO r_verdict, r_generation, r_retry_after_s, r_slot, r_place, r_estimated_s
            FROM lambent.await_slot(p_host, r_client, p_slots, p_token, p_lease_s, p_ticket_s) q;
        END IF;
    END;
    -- One array, not eleven columns: describing and loading columns cost more than deciding.
    RETURN ARRAY[
        r_verdict, r_client, r_key_name, array_to_string(r_scopes, ' '), r_quota::text,
        r_tat_s::text, r_retry_after_s::text, r_generation::text, r_slot::text, r_place::text,
        r_estimated_s::text];
END $$;

-- A client's first request, or a refused one: told apart by whether its row is there.
CREATE OR REPLACE FUNCTION lambent.first_request(
    p_client text, p_step interval, p_slack interval,
    OUT r_passed boolean, OUT r_tat timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT l.tat INTO r_tat FROM lambent.client_limit l WHERE l.client = p_client;
    IF NOT FOUND THEN
        INSERT INTO lambent.client_limit AS l (client, tat)
        VALUES (p_client, clock_timestamp() + p_step)
        ON CONFLICT (client) DO UPDATE SET tat = greatest(l.tat, clock_timestamp()) + p_step
            WHERE l.tat <= clock_timestamp() + p_slack
        RETURNING l.tat INTO r_tat;
        r_passed := FOUND;
        IF r_passed THEN
            RETURN;
        END IF;
        SELECT l.tat INTO r_tat FROM lambent.client_limit l WHERE l.client = p_client;
    END IF;
    r_passed := false;
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
