SELECT id, host, at, was, state, generation, failures, by_hand
FROM lambent.breaker_change
WHERE (%(host)s::text IS NULL OR host = %(host)s)
  AND (%(before)s::bigint IS NULL OR id < %(before)s)
ORDER BY id DESC LIMIT %(limit)s
