SELECT t.host, t.client, o.place::integer AS position
FROM (SELECT DISTINCT host FROM lambent.ticket) h, lambent.queue_order(h.host) o
JOIN lambent.ticket t ON t.token = o.token
WHERE t.host = h.host
ORDER BY t.host, o.place
