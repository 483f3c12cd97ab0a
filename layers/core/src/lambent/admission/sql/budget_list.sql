SELECT s.kind, s.owner, o.client, s.period, s.unit, s.soft::double precision AS soft,
       s.hard::double precision AS hard, s.used::double precision AS used, s.resets_in_s
FROM (SELECT DISTINCT b.client, CASE b.kind WHEN 'key' THEN b.owner ELSE '' END AS key_id
      FROM lambent.budget b
      WHERE (%(client)s::text IS NULL OR b.client = %(client)s)
        AND (%(key)s::text IS NULL OR b.kind = 'client' OR b.owner = %(key)s)) o,
     lambent.budget_states(o.client, o.key_id) s
WHERE (s.kind = 'key') = (o.key_id <> '')
ORDER BY o.client, s.kind, s.owner, s.period, s.unit
LIMIT %(limit)s
