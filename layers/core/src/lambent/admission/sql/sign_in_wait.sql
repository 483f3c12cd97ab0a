SELECT extract(epoch FROM tat - clock_timestamp())::double precision - %(slack_s)s AS wait_s
FROM lambent.sign_in_limit WHERE address = %(address)s
