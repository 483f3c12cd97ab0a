-- The row's id is fixed, so of two at once only one inserts. A secret given from outside replaces
-- the stored one, and lifts a revocation only if it is another secret than the revoked one.
INSERT INTO lambent.api_key AS k (id, secret_hash, name, client, scopes)
VALUES (%(id)s, %(secret_hash)s, %(name)s, %(client)s, %(scopes)s)
ON CONFLICT (id) DO UPDATE
SET secret_hash = excluded.secret_hash, previous_hash = NULL, previous_until = '-infinity',
    revoked_at = NULL
WHERE %(given)s AND k.secret_hash <> excluded.secret_hash
RETURNING id
