SELECT id, name, client, scopes, session_epoch, secret_hash,
       CASE WHEN previous_until > clock_timestamp() THEN previous_hash END AS previous_hash
FROM lambent.api_key
WHERE id = %(id)s AND revoked_at IS NULL AND expires_at > clock_timestamp()
  AND NOT EXISTS (SELECT FROM lambent.ended_session WHERE id = %(session)s)
