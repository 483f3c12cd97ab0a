UPDATE lambent.audit
SET outcome = %(outcome)s, action = coalesce(%(action)s, action),
    target = coalesce(%(target)s, target)
WHERE id = %(id)s AND outcome IS NULL
