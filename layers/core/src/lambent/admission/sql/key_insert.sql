INSERT INTO lambent.api_key (id, secret_hash, name, client, scopes, quota, expires_at)
VALUES (%(id)s, %(secret_hash)s, %(name)s, %(client)s, %(scopes)s, %(quota)s,
        coalesce(%(expires_at)s, 'infinity'::timestamptz))
RETURNING id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
