-- How long generations took lately, by host: the moving averages of its slots.
SELECT s.host, avg(s.held_s) FILTER (WHERE s.held_s > 0) AS generation_s
FROM lambent.slot s GROUP BY s.host
