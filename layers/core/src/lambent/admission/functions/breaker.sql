-- The shared breaker. States: closed -> open -> half_open -> closed or open again.
--
-- An open breaker turns half open when someone takes the probe after open_until. The probe is
-- leased: if its holder dies, the next one takes it over. A result counts only if it carries the
-- present generation and, for probes, comes from the holder.

-- 'probe': this caller has it. 'breaker_open': come back later. 'closed': closed in between.
CREATE OR REPLACE FUNCTION lambent.take_probe(
    p_host text, p_token text, p_lease_s double precision,
    OUT r_verdict text, OUT r_generation bigint, OUT r_retry_after_s double precision
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE lambent.breaker b
    SET state = 'half_open', probe = p_token,
        probe_until = clock_timestamp() + make_interval(secs => p_lease_s),
        generation = b.generation + CASE b.state WHEN 'open' THEN 1 ELSE 0 END,
        successes = CASE b.state WHEN 'open' THEN 0 ELSE b.successes END,
        changed_at = CASE b.state WHEN 'open' THEN clock_timestamp() ELSE b.changed_at END
    WHERE b.host = p_host
      AND (b.state = 'open' AND b.open_until <= clock_timestamp()
           OR b.state = 'half_open' AND b.probe_until <= clock_timestamp())
    RETURNING b.generation INTO r_generation;
    IF FOUND THEN
        r_verdict := 'probe';
        RETURN;
    END IF;
    SELECT b.state, b.generation, extract(epoch FROM b.open_until - clock_timestamp())
    INTO v_state, r_generation, r_retry_after_s
    FROM lambent.breaker b WHERE b.host = p_host;
    r_verdict := CASE WHEN v_state IN ('open', 'half_open') THEN 'breaker_open' ELSE 'closed' END;
END $$;

-- Books a result and releases the slot. p_result: success, failure, or none (no verdict).
-- p_judged: this call's success was booked before; what comes now can only be a later failure.
-- Answers what this very call did to the breaker: opened, closed, or null.
CREATE OR REPLACE FUNCTION lambent.judge(
    p_host text, p_token text, p_slot integer, p_probe boolean, p_generation bigint,
    p_result text, p_judged boolean,
    p_failures integer, p_open_s double precision, p_successes integer
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_change text;
BEGIN
    IF p_probe THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        v_change := lambent.judge_probe(
            p_host, p_token, p_generation, p_result, p_judged, p_open_s, p_successes);
    ELSIF p_result = 'success' THEN
        UPDATE lambent.breaker SET failures = 0
        WHERE host = p_host AND generation = p_generation AND state = 'closed' AND failures > 0;
    ELSIF p_result = 'failure' THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO lambent.breaker (host) VALUES (p_host) ON CONFLICT (host) DO NOTHING;
        UPDATE lambent.breaker b
        SET failures = b.failures + 1,
            state = CASE WHEN b.failures + 1 >= p_failures THEN 'open' ELSE 'closed' END,
            generation = b.generation + CASE WHEN b.failures + 1 >= p_failures THEN 1 ELSE 0 END,
            open_until = clock_timestamp() + make_interval(secs => p_open_s),
            changed_at = CASE WHEN b.failures + 1 >= p_failures
                         THEN clock_timestamp() ELSE b.changed_at END
        WHERE b.host = p_host AND b.generation = p_generation AND b.state = 'closed'
        RETURNING CASE b.state WHEN 'open' THEN 'opened' END INTO v_change;
    END IF;
    IF p_slot IS NOT NULL THEN
        UPDATE lambent.slot s
        SET token = NULL, client = NULL, taken_at = NULL, lease_until = '-infinity',
            held_s = extract(epoch FROM clock_timestamp() - s.taken_at)
                     * CASE s.held_s WHEN 0 THEN 1 ELSE 0.2 END + 0.8 * s.held_s
        WHERE s.host = p_host AND s.number = p_slot AND s.token = p_token;
    END IF;
    RETURN v_change;
END $$;

CREATE OR REPLACE FUNCTION lambent.judge_probe(
    p_host text, p_token text, p_generation bigint, p_result text, p_judged boolean,
    p_open_s double precision, p_successes integer
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_change text;
BEGIN
    IF p_result = 'failure' THEN
        -- A probe judged good at its first token holds the probe no more, yet its broken stream
        -- is a failure of this half-open time.
        UPDATE lambent.breaker b
        SET state = 'open', generation = b.generation + 1, successes = 0,
            open_until = clock_timestamp() + make_interval(secs => p_open_s),
            probe = NULL, probe_until = '-infinity', changed_at = clock_timestamp()
        WHERE b.host = p_host AND b.generation = p_generation AND b.state = 'half_open'
          AND (b.probe = p_token OR p_judged)
        RETURNING 'opened' INTO v_change;
    ELSIF p_result = 'success' THEN
        UPDATE lambent.breaker b
        SET successes = b.successes + 1, probe = NULL, probe_until = '-infinity', failures = 0,
            state = CASE WHEN b.successes + 1 >= p_successes THEN 'closed' ELSE 'half_open' END,
            generation = b.generation + CASE WHEN b.successes + 1 >= p_successes THEN 1 ELSE 0 END,
            changed_at = CASE WHEN b.successes + 1 >= p_successes
                         THEN clock_timestamp() ELSE b.changed_at END
        WHERE b.host = p_host AND b.generation = p_generation AND b.state = 'half_open'
          AND b.probe = p_token
        RETURNING CASE b.state WHEN 'closed' THEN 'closed' END INTO v_change;
    ELSE
        UPDATE lambent.breaker b SET probe = NULL, probe_until = '-infinity'
        WHERE b.host = p_host AND b.generation = p_generation AND b.probe = p_token;
    END IF;
    RETURN v_change;
END $$;

-- What functions of before 0.2 call while a deploy goes on; it and book_probe, which nothing calls
-- any more, go with the release after.
CREATE OR REPLACE FUNCTION lambent.finish(
    p_host text, p_token text, p_slot integer, p_probe boolean, p_generation bigint,
    p_result text, p_judged boolean,
    p_failures integer, p_open_s double precision, p_successes integer
) RETURNS void LANGUAGE sql AS $$
    SELECT lambent.judge(p_host, p_token, p_slot, p_probe, p_generation, p_result, p_judged,
                         p_failures, p_open_s, p_successes)
$$;

-- By hand: open until p_open_s from now, or closed; either way results under way count no more.
CREATE OR REPLACE FUNCTION lambent.set_breaker(
    p_host text, p_state text, p_open_s double precision
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lambent.by_hand', 'yes', true);
    INSERT INTO lambent.breaker AS b (host, state, generation, open_until)
    VALUES (p_host, p_state, 1, clock_timestamp() + make_interval(secs => p_open_s))
    ON CONFLICT (host) DO UPDATE
    SET state = excluded.state, generation = b.generation + 1, failures = 0, successes = 0,
        open_until = excluded.open_until, probe = NULL, probe_until = '-infinity',
        changed_at = clock_timestamp();
END $$;
