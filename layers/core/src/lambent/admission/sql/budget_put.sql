-- All of an owner's budgets at once; a key's belong to its client, and to nobody if there is none.
WITH whose AS (
    SELECT CASE %(kind)s WHEN 'client' THEN %(owner)s
           ELSE (SELECT k.client FROM lambent.api_key k WHERE k.id = %(owner)s) END AS client
), wanted AS (
    SELECT x.* FROM jsonb_to_recordset(%(budgets)s::jsonb) AS x (
        period text, unit text, soft numeric, hard numeric)
), gone AS (
    DELETE FROM lambent.budget b
    WHERE b.kind = %(kind)s AND b.owner = %(owner)s AND NOT EXISTS (
        SELECT FROM wanted w WHERE w.period = b.period AND w.unit = b.unit)
), made AS (
    INSERT INTO lambent.budget (kind, owner, period, unit, client, soft, hard)
    SELECT %(kind)s, %(owner)s, w.period, w.unit, o.client, w.soft, w.hard
    FROM wanted w, whose o WHERE o.client IS NOT NULL
    ON CONFLICT (kind, owner, period, unit) DO UPDATE
    SET soft = excluded.soft, hard = excluded.hard, updated_at = clock_timestamp()
)
SELECT client FROM whose
