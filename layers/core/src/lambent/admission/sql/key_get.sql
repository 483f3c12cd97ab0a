SELECT id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
FROM lambent.api_key WHERE id = %(id)s
