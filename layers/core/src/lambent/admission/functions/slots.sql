-- Model slots under contention: leased tickets, the least served client first, its oldest ticket
-- first. A client's 100 tickets stand behind another's one as soon as one of the 100 was served.

-- Renews or draws the ticket p_token and takes a slot if it is its turn.
-- 'admitted' and 'probe' and 'breaker_open' end the ticket; 'queued' keeps it for p_ticket_s.
CREATE OR REPLACE FUNCTION lambent.await_slot(
    p_host text, p_client text, p_slots integer, p_token text,
    p_lease_s double precision, p_ticket_s double precision,
    OUT r_verdict text,
    OUT r_generation bigint,
    OUT r_retry_after_s double precision,
    OUT r_slot integer,
    OUT r_place integer,
    OUT r_estimated_s double precision
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_free integer;
    v_held_s double precision;
BEGIN
    SELECT b.state, b.generation INTO v_state, r_generation
    FROM lambent.breaker b WHERE b.host = p_host;
    IF v_state <> 'closed' THEN
        SELECT p.r_verdict, p.r_generation, p.r_retry_after_s
        INTO r_verdict, r_generation, r_retry_after_s
        FROM lambent.take_probe(p_host, p_token, p_lease_s) p;
        IF r_verdict <> 'closed' THEN
            DELETE FROM lambent.ticket WHERE token = p_token;
            RETURN;
        END IF;
    END IF;

    PERFORM lambent.hold_ticket(p_host, p_client, p_slots, p_token, p_ticket_s);
    SELECT o.place INTO r_place FROM lambent.queue_order(p_host) o WHERE o.token = p_token;
    SELECT count(*) FILTER (WHERE s.lease_until <= clock_timestamp()),
           coalesce(avg(s.held_s) FILTER (WHERE s.held_s > 0), 1)
    INTO v_free, v_held_s
    FROM lambent.slot s WHERE s.host = p_host AND s.number < p_slots;

    -- As many as are free may go at once: who stands behind need not see those in front leave.
    IF r_place <= v_free THEN
        r_slot := lambent.take_slot(p_host, p_client, p_slots, p_token, p_lease_s);
        IF r_slot IS NOT NULL THEN
            r_verdict := 'admitted';
            r_place := NULL;
            RETURN;
        END IF;
    END IF;
    r_verdict := 'queued';
    r_estimated_s := v_held_s * ceil(r_place::double precision / p_slots);
END $$;

-- A free slot of the host for who has stood in its queue, which is left thereby; null: none is free.
CREATE OR REPLACE FUNCTION lambent.take_slot(
    p_host text, p_client text, p_slots integer, p_token text, p_lease_s double precision
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_slot integer := lambent.seize_slot(p_host, p_client, p_slots, p_token, p_lease_s);
    v_host text;
BEGIN
    IF v_slot IS NOT NULL THEN
        -- It was a turn in every queue that the ticket stood in: who may use several hosts has one
        -- share of them, not one of each. In one order, so that no two wait for each other's rows.
        FOR v_host IN
            SELECT p_host AS host UNION
            SELECT unnest(t.hosts) FROM lambent.ticket t WHERE t.token = p_token
            ORDER BY host
        LOOP
            UPDATE lambent.turn SET served = served + 1 WHERE host = v_host AND client = p_client;
        END LOOP;
        DELETE FROM lambent.ticket WHERE token = p_token;
    END IF;
    RETURN v_slot;
END $$;

-- A free slot of the host, whoever waits for one; null: none is free. `decide` has the same in a
-- statement of its own: it is on the way of every request.
CREATE OR REPLACE FUNCTION lambent.seize_slot(
    p_host text, p_client text, p_slots integer, p_token text, p_lease_s double precision
) RETURNS integer LANGUAGE sql AS $$
    UPDATE lambent.slot s
    SET token = p_token, client = p_client, taken_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => p_lease_s)
    WHERE s.host = p_host AND s.number = (
        SELECT f.number FROM lambent.slot f
        WHERE f.host = p_host AND f.number < p_slots AND f.lease_until <= clock_timestamp()
        LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING s.number
$$;

-- Live tickets that the host may serve, wherever they were drawn.
CREATE OR REPLACE FUNCTION lambent.waiting_for(p_host text)
RETURNS TABLE (token text, client text, id bigint) LANGUAGE sql STABLE AS $$
    SELECT w.token, w.client, w.id FROM lambent.ticket w
    WHERE (w.host = p_host OR p_host = ANY (w.hosts)) AND w.lease_until > clock_timestamp()
$$;

-- The same in the order in which they will be served, as things stand.
CREATE OR REPLACE FUNCTION lambent.queue_order(p_host text)
RETURNS TABLE (token text, client text, place bigint) LANGUAGE sql STABLE AS $$
    SELECT t.token, t.client,
           row_number() OVER (ORDER BY coalesce(u.served, 0) + t.nth, t.id)
    FROM (SELECT w.token, w.client, w.id,
                 row_number() OVER (PARTITION BY w.client ORDER BY w.id) AS nth
          FROM lambent.waiting_for(p_host) w) t
    LEFT JOIN lambent.turn u ON u.host = p_host AND u.client = t.client
$$;

-- Keeps the ticket alive, or draws one: new, lapsed, or lost in a crash of the server. A ticket
-- that was drawn for several hosts is from now on this one's: who asks so looks nowhere else.
CREATE OR REPLACE FUNCTION lambent.hold_ticket(
    p_host text, p_client text, p_slots integer, p_token text, p_ticket_s double precision
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lambent.forget_lapsed(ARRAY[p_host]);
    UPDATE lambent.ticket
    SET lease_until = clock_timestamp() + make_interval(secs => p_ticket_s),
        host = p_host, hosts = NULL
    WHERE token = p_token;
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM lambent.make_slots(p_host, p_slots);
    PERFORM lambent.join_queue(p_host, p_client);
    INSERT INTO lambent.ticket (token, host, client, lease_until)
    VALUES (p_token, p_host, p_client,
            clock_timestamp() + make_interval(secs => p_ticket_s))
    ON CONFLICT (token) DO NOTHING;
END $$;

CREATE OR REPLACE FUNCTION lambent.forget_lapsed(p_hosts text[])
RETURNS void LANGUAGE sql AS $$
    DELETE FROM lambent.ticket WHERE token IN (
        SELECT w.token FROM lambent.ticket w
        WHERE w.host = ANY (p_hosts) AND w.lease_until <= clock_timestamp()
        FOR UPDATE SKIP LOCKED);
$$;

-- All of a host's slots are made by one statement: the last one stands for all.
CREATE OR REPLACE FUNCTION lambent.make_slots(p_host text, p_slots integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM lambent.slot s WHERE s.host = p_host AND s.number = p_slots - 1) THEN
        INSERT INTO lambent.slot (host, number)
        SELECT p_host, n FROM generate_series(0, p_slots - 1) n ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Who was away starts level with the least served of those who wait: neither ahead of them
-- for its absence nor behind. Who has had more at other hosts than they could use starts no more
-- than 20 turns behind: it must not stand still for all of that once this host is its only one.
CREATE OR REPLACE FUNCTION lambent.join_queue(p_host text, p_client text)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO lambent.turn AS u (host, client, served)
    SELECT p_host, p_client, coalesce(
        (SELECT min(o.served) FROM lambent.turn o
         WHERE o.host = p_host
           AND o.client IN (SELECT w.client FROM lambent.waiting_for(p_host) w)),
        (SELECT max(o.served) FROM lambent.turn o WHERE o.host = p_host),
        0)
    ON CONFLICT (host, client) DO UPDATE
    SET served = least(greatest(u.served, excluded.served), excluded.served + 20);
$$;

-- Gives up a ticket, and the slot or the probe that it may have turned into unnoticed.
CREATE OR REPLACE FUNCTION lambent.leave(p_host text, p_token text)
RETURNS void LANGUAGE sql AS $$
    UPDATE lambent.breaker SET probe = NULL, probe_until = '-infinity'
    WHERE host = p_host AND probe = p_token;
    DELETE FROM lambent.ticket WHERE token = p_token;
    UPDATE lambent.slot SET token = NULL, client = NULL, taken_at = NULL, lease_until = '-infinity'
    WHERE host = p_host AND token = p_token;
$$;

-- True while the lease is still this token's.
CREATE OR REPLACE FUNCTION lambent.renew(
    p_host text, p_token text, p_slot integer, p_probe boolean, p_lease_s double precision
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF p_probe THEN
        UPDATE lambent.breaker
        SET probe_until = clock_timestamp() + make_interval(secs => p_lease_s)
        WHERE host = p_host AND probe = p_token;
    ELSE
        UPDATE lambent.slot
        SET lease_until = clock_timestamp() + make_interval(secs => p_lease_s)
        WHERE host = p_host AND number = p_slot AND token = p_token;
    END IF;
    RETURN FOUND;
END $$;
