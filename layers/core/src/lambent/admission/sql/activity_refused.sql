SELECT client,
       sum(over_limit)::bigint AS over_limit,
       sum(over_budget)::bigint AS over_budget,
       sum(no_slot)::bigint AS no_slot,
       sum(breaker_open)::bigint AS breaker_open
FROM lambent.activity
WHERE hour >= %(since)s AND hour <= %(last)s
GROUP BY client
HAVING sum(over_limit + over_budget + no_slot + breaker_open) > 0
ORDER BY sum(over_limit + over_budget + no_slot + breaker_open) DESC, client
LIMIT %(limit)s
