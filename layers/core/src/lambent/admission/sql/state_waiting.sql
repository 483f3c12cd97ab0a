SELECT h.host, o.client, o.place::integer AS position
FROM (SELECT DISTINCT host FROM lambent.ticket) h, lambent.queue_order(h.host) o
ORDER BY h.host, o.place
