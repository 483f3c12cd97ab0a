UPDATE lambent.api_key
SET name = coalesce(%(name)s, name),
    quota = CASE WHEN %(set_quota)s THEN %(quota)s ELSE quota END,
    expires_at = CASE WHEN %(set_expiry)s THEN coalesce(%(expires_at)s, 'infinity'::timestamptz)
                 ELSE expires_at END
WHERE id = %(id)s
RETURNING id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
