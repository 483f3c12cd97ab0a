SELECT host,
       state,
       generation,
       failures,
       successes,
       CASE state WHEN 'open' THEN greatest(0, extract(epoch FROM open_until - clock_timestamp()))
       END::double precision AS opens_in_s,
       state = 'half_open' AND probe_until > clock_timestamp() AS probing,
       changed_at
FROM lambent.breaker ORDER BY host
