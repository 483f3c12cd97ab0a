SELECT host,
       number,
       client,
       extract(epoch FROM clock_timestamp() - taken_at)::double precision AS held_s,
       extract(epoch FROM lease_until - clock_timestamp())::double precision AS lease_left_s
FROM lambent.slot WHERE token IS NOT NULL AND lease_until > clock_timestamp() ORDER BY host, number
