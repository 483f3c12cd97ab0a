UPDATE lambent.api_key
SET revoked_at = coalesce(revoked_at, clock_timestamp()), previous_hash = NULL
WHERE id = %(id)s
RETURNING id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
