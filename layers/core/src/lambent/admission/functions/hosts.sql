-- Several model hosts: which one a call goes to, and the history of their breakers.

-- A host with a free slot whose breaker is closed; then one whose breaker may be tried, before
-- anyone has to wait; then the one with a full house; last those whose breaker is open, of which
-- the first to close. Among equals one that has the model loaded; then the least busy; then the one
-- named first.
CREATE OR REPLACE FUNCTION lambent.choose_host(p_hosts text[], p_loaded text[], p_slots integer)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT h.host
    FROM unnest(p_hosts) WITH ORDINALITY AS h (host, nth)
    LEFT JOIN lambent.breaker b ON b.host = h.host,
    LATERAL (
        SELECT count(*) AS busy FROM lambent.slot s
        WHERE s.host = h.host AND s.lease_until > clock_timestamp()) u,
    LATERAL (
        SELECT count(*) AS waiting FROM lambent.ticket t
        WHERE t.host = h.host AND t.lease_until > clock_timestamp()) w
    ORDER BY
        CASE WHEN b.state IS NULL OR b.state = 'closed'
             THEN CASE WHEN p_slots IS NOT NULL AND u.busy + w.waiting >= p_slots
                  THEN 2 ELSE 0 END
             WHEN b.state = 'open' AND b.open_until <= clock_timestamp()
                  OR b.state = 'half_open' AND b.probe_until <= clock_timestamp() THEN 1
             ELSE 3 END,
        CASE b.state WHEN 'open' THEN b.open_until END NULLS FIRST,
        h.host <> ALL (p_loaded),
        u.busy + w.waiting,
        h.nth
    LIMIT 1
$$;

-- `decide` for several hosts; the last of the answer names the one granted. What is theirs in
-- common is decided without a slot; then one of the best is taken, else one of any, else a ticket
-- for all of them is drawn.
CREATE OR REPLACE FUNCTION lambent.decide_among(
    p_key_id text, p_hash bytea, p_scope text, p_client text, p_quota integer,
    p_window_s double precision, p_agent_exists boolean, p_hosts text[], p_loaded text[],
    p_slots integer, p_token text, p_lease_s double precision, p_ticket_s double precision
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_host text := lambent.choose_host(p_hosts, p_loaded, p_slots);
    v_row text[] := lambent.decide(
        p_key_id, p_hash, p_scope, p_client, p_quota, p_window_s, p_agent_exists, v_host, NULL,
        p_token, p_lease_s, p_ticket_s);
    v_slot integer;
    w record;
BEGIN
    IF p_slots IS NULL OR v_row[1] NOT IN ('admitted', 'breaker_open') THEN
        RETURN v_row || v_host;
    END IF;
    IF v_row[1] = 'admitted' AND NOT EXISTS (SELECT FROM lambent.waiting_for(v_host)) THEN
        v_slot := lambent.seize_slot(v_host, v_row[2], p_slots, p_token, p_lease_s);
        IF v_slot IS NOT NULL THEN
            v_row[9] := v_slot::text;
            RETURN v_row || v_host;
        END IF;
    END IF;
    w := lambent.await_among(
        p_hosts, p_loaded, v_row[2], p_slots, p_token, p_lease_s, p_ticket_s);
    v_row[1] := w.r_verdict;
    v_row[7] := w.r_retry_after_s::text;
    v_row[8] := w.r_generation::text;
    v_row[9] := w.r_slot::text;
    v_row[10] := w.r_place::text;
    v_row[11] := w.r_estimated_s::text;
    RETURN v_row || coalesce(w.r_host, v_host);
END $$;

CREATE OR REPLACE FUNCTION lambent.note_breaker_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lambent.breaker_change (host, was, state, generation, failures, by_hand)
    VALUES (NEW.host, CASE TG_OP WHEN 'INSERT' THEN 'closed' ELSE OLD.state END, NEW.state,
            NEW.generation, NEW.failures,
            coalesce(current_setting('lambent.by_hand', true), '') = 'yes');
    DELETE FROM lambent.breaker_change c
    WHERE c.host = NEW.host AND c.at < clock_timestamp() - interval '90 days';
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER breaker_changed AFTER UPDATE OF state ON lambent.breaker
FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION lambent.note_breaker_change();

CREATE OR REPLACE TRIGGER breaker_made AFTER INSERT ON lambent.breaker
FOR EACH ROW WHEN (NEW.state <> 'closed')
EXECUTE FUNCTION lambent.note_breaker_change();
