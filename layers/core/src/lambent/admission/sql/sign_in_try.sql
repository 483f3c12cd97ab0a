-- Counts a try before the key is looked at, so that many at once do not all slip through. No row
-- comes back where the address has used up what it may.
INSERT INTO lambent.sign_in_limit AS l (address, tat)
VALUES (%(address)s, clock_timestamp() + make_interval(secs => %(step_s)s))
ON CONFLICT (address) DO UPDATE
SET tat = greatest(l.tat, clock_timestamp()) + make_interval(secs => %(step_s)s)
WHERE l.tat <= clock_timestamp() + make_interval(secs => %(slack_s)s)
RETURNING address
