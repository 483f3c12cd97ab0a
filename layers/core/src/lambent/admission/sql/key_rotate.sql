-- A grace of nothing forgets the old secret at once.
UPDATE lambent.api_key
SET previous_hash = CASE WHEN %(grace_s)s > 0 THEN secret_hash END,
    previous_until = CASE WHEN %(grace_s)s > 0
                     THEN clock_timestamp() + make_interval(secs => %(grace_s)s)
                     ELSE '-infinity' END,
    secret_hash = %(secret_hash)s
WHERE id = %(id)s AND revoked_at IS NULL
RETURNING id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
