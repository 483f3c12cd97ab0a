-- Several model hosts: which one a call goes to, and the history of their breakers.

-- A host that may be called, before those whose breaker is open, of which the first to close; then
-- one with a free slot; then one that has the model loaded; then the least busy; then the one named
-- first.
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
        CASE WHEN b.state IS NULL OR b.state = 'closed' THEN 0
             WHEN b.state = 'open' AND b.open_until <= clock_timestamp()
                  OR b.state = 'half_open' AND b.probe_until <= clock_timestamp() THEN 1
             ELSE 2 END,
        CASE b.state WHEN 'open' THEN b.open_until END NULLS FIRST,
        p_slots IS NOT NULL AND u.busy + w.waiting >= p_slots,
        h.host <> ALL (p_loaded),
        u.busy + w.waiting,
        h.nth
    LIMIT 1
$$;

-- `decide` for the best of several hosts; its name is the last of the answer.
CREATE OR REPLACE FUNCTION lambent.decide_among(
    p_key_id text, p_hash bytea, p_scope text, p_client text, p_quota integer,
    p_window_s double precision, p_agent_exists boolean, p_hosts text[], p_loaded text[],
    p_slots integer, p_token text, p_lease_s double precision, p_ticket_s double precision
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    v_host text := lambent.choose_host(p_hosts, p_loaded, p_slots);
BEGIN
    RETURN lambent.decide(
        p_key_id, p_hash, p_scope, p_client, p_quota, p_window_s, p_agent_exists, v_host, p_slots,
        p_token, p_lease_s, p_ticket_s) || v_host;
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
