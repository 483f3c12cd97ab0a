-- A row for each hour with anything, and one for all of them, whose hour is null.
SELECT hour,
       sum(chats)::bigint AS chats,
       sum(tokens)::bigint AS tokens,
       sum(first_tokens)::bigint AS first_tokens,
       sum(first_s) AS first_s,
       max(slowest_s) AS slowest_s,
       ARRAY[sum(first_within[1]), sum(first_within[2]), sum(first_within[3]),
             sum(first_within[4]), sum(first_within[5]), sum(first_within[6]),
             sum(first_within[7]), sum(first_within[8]), sum(first_within[9]),
             sum(first_within[10]), sum(first_within[11])]::bigint[] AS first_within,
       sum(over_limit)::bigint AS over_limit,
       sum(over_budget)::bigint AS over_budget,
       sum(no_slot)::bigint AS no_slot,
       sum(breaker_open)::bigint AS breaker_open
FROM lambent.activity
WHERE hour >= %(since)s AND hour <= %(last)s
GROUP BY GROUPING SETS ((hour), ())
