SELECT id, at, key_id, key_name, client, action, target, via, address, request_id, outcome
FROM lambent.audit
WHERE (%(key_id)s::text IS NULL OR key_id = %(key_id)s)
  AND (%(action)s::text IS NULL OR action = %(action)s)
  AND (%(target)s::text IS NULL OR target = %(target)s)
  AND id >= %(first)s AND id < %(before)s
ORDER BY id DESC LIMIT %(limit)s
