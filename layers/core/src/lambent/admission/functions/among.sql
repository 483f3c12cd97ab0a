-- Waiting for whichever of several hosts is free first. A ticket stands in the queue of each host
-- that may serve it, with the age that it has: a slot that frees at any of them is its before a
-- newcomer's, in the order that `queue_order` gives that host's clients. What one of them grants
-- counts at each of them (`take_slot`).

-- Renews or draws the ticket p_token and takes a slot where it is its turn, else the probe of a
-- host whose breaker may be tried. Verdicts as `await_slot`'s, breaker_open only where all are;
-- r_host is the host granted, or the one where its place is the nearest.
--
-- The breaker is locked after the ticket here: whoever holds a breaker waits for no ticket but its
-- own, so that no circle can close.
CREATE OR REPLACE FUNCTION lambent.await_among(
    p_hosts text[], p_loaded text[], p_client text, p_slots integer, p_token text,
    p_lease_s double precision, p_ticket_s double precision,
    OUT r_verdict text,
    OUT r_generation bigint,
    OUT r_retry_after_s double precision,
    OUT r_slot integer,
    OUT r_place integer,
    OUT r_estimated_s double precision,
    OUT r_host text
) LANGUAGE plpgsql AS $$
DECLARE
    v_ready text[] := ARRAY(
        SELECT h.host FROM unnest(p_hosts) AS h (host)
        WHERE NOT EXISTS (
            SELECT FROM lambent.breaker b WHERE b.host = h.host AND b.state <> 'closed'));
    h record;
BEGIN
    IF v_ready <> '{}' THEN
        PERFORM lambent.hold_among(v_ready, p_client, p_slots, p_token, p_ticket_s);
    END IF;
    FOR h IN
        SELECT c.host, b.generation, q.place, u.free
        FROM unnest(v_ready) AS c (host)
        LEFT JOIN lambent.breaker b ON b.host = c.host,
        LATERAL (SELECT o.place FROM lambent.queue_order(c.host) o WHERE o.token = p_token) q,
        LATERAL (SELECT count(*) AS free FROM lambent.slot s
                 WHERE s.host = c.host AND s.number < p_slots
                   AND s.lease_until <= clock_timestamp()) u
        WHERE b.state IS NULL OR b.state = 'closed'
        ORDER BY q.place > u.free, c.host <> ALL (p_loaded), u.free DESC,
                 array_position(p_hosts, c.host)
    LOOP
        IF h.place <= h.free THEN
            r_slot := lambent.take_slot(h.host, p_client, p_slots, p_token, p_lease_s);
            IF r_slot IS NOT NULL THEN
                r_verdict := 'admitted';
                r_host := h.host;
                r_generation := h.generation;
                r_place := NULL;
                RETURN;
            END IF;
        END IF;
        IF r_place IS NULL OR h.place < r_place THEN
            r_place := h.place;
            r_host := h.host;
        END IF;
    END LOOP;

    FOR h IN
        SELECT b.host FROM lambent.breaker b
        WHERE b.host = ANY (p_hosts)
          AND (b.state = 'open' AND b.open_until <= clock_timestamp()
               OR b.state = 'half_open' AND b.probe_until <= clock_timestamp())
        ORDER BY b.open_until, b.host
    LOOP
        SELECT p.r_verdict, p.r_generation INTO r_verdict, r_generation
        FROM lambent.take_probe(h.host, p_token, p_lease_s) p;
        IF r_verdict = 'probe' THEN
            DELETE FROM lambent.ticket WHERE token = p_token;
            r_host := h.host;
            r_place := NULL;
            RETURN;
        END IF;
    END LOOP;

    -- Where the last breaker closed just now, the next look draws the ticket.
    IF v_ready = '{}' AND r_verdict IS DISTINCT FROM 'closed' THEN
        DELETE FROM lambent.ticket WHERE token = p_token;
        r_verdict := 'breaker_open';
        SELECT min(extract(epoch FROM b.open_until - clock_timestamp())) INTO r_retry_after_s
        FROM lambent.breaker b WHERE b.host = ANY (p_hosts);
        RETURN;
    END IF;
    r_verdict := 'queued';
    r_generation := NULL;
    r_place := coalesce(r_place, 1);
    r_host := coalesce(r_host, p_hosts[1]);
    SELECT coalesce(avg(s.held_s) FILTER (WHERE s.held_s > 0), 1)
           * ceil(r_place::double precision / (p_slots * greatest(cardinality(v_ready), 1)))
    INTO r_estimated_s
    FROM lambent.slot s WHERE s.host = ANY (v_ready) AND s.number < p_slots;
END $$;

-- `hold_ticket` for several hosts, of which the first is the one that shows it among its waiters.
CREATE OR REPLACE FUNCTION lambent.hold_among(
    p_hosts text[], p_client text, p_slots integer, p_token text, p_ticket_s double precision
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_host text;
    v_sorted text[] := ARRAY(SELECT h FROM unnest(p_hosts) h ORDER BY h);
BEGIN
    PERFORM lambent.forget_lapsed(p_hosts);
    IF NOT EXISTS (
        SELECT FROM lambent.ticket t WHERE t.token = p_token AND t.hosts @> p_hosts) THEN
        -- In one order, so that no two wait for each other's rows.
        FOREACH v_host IN ARRAY v_sorted LOOP
            PERFORM lambent.make_slots(v_host, p_slots);
        END LOOP;
        FOREACH v_host IN ARRAY v_sorted LOOP
            PERFORM lambent.join_queue(v_host, p_client);
        END LOOP;
    END IF;
    UPDATE lambent.ticket
    SET lease_until = clock_timestamp() + make_interval(secs => p_ticket_s), hosts = p_hosts,
        host = CASE WHEN host = ANY (p_hosts) THEN host ELSE p_hosts[1] END
    WHERE token = p_token;
    IF NOT FOUND THEN
        INSERT INTO lambent.ticket (token, host, hosts, client, lease_until)
        VALUES (p_token, p_hosts[1], p_hosts, p_client,
                clock_timestamp() + make_interval(secs => p_ticket_s))
        ON CONFLICT (token) DO NOTHING;
    END IF;
END $$;

-- `leave` for a ticket of several hosts: it may have been served at any of them unnoticed.
CREATE OR REPLACE FUNCTION lambent.leave_among(p_hosts text[], p_token text)
RETURNS void LANGUAGE sql AS $$
    UPDATE lambent.breaker SET probe = NULL, probe_until = '-infinity'
    WHERE host = ANY (p_hosts) AND probe = p_token;
    DELETE FROM lambent.ticket WHERE token = p_token;
    UPDATE lambent.slot SET token = NULL, client = NULL, taken_at = NULL, lease_until = '-infinity'
    WHERE host = ANY (p_hosts) AND token = p_token;
$$;
