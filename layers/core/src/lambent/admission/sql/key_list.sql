SELECT id, name, client, scopes, quota, created_at, nullif(expires_at, 'infinity') AS expires_at,
       revoked_at, nullif(last_used_at, '-infinity') AS last_used_at
FROM lambent.api_key
WHERE (%(client)s::text IS NULL OR client = %(client)s)
  AND (%(cursor)s::text IS NULL OR id < %(cursor)s)
ORDER BY id DESC LIMIT %(limit)s
