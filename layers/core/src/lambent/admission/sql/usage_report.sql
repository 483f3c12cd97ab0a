-- A column that is not grouped by is null in every row.
SELECT CASE WHEN %(by_day)s THEN day END AS day,
       CASE WHEN %(by_month)s THEN to_char(day, 'YYYY-MM') END AS month,
       CASE WHEN %(by_client)s THEN client END AS client,
       CASE WHEN %(by_key)s THEN key_id END AS key,
       CASE WHEN %(by_agent)s THEN agent END AS agent,
       CASE WHEN %(by_model)s THEN model END AS model,
       sum(requests)::bigint AS requests,
       sum(broken)::bigint AS broken,
       sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(completion_tokens)::bigint AS completion_tokens,
       sum(estimated_tokens)::bigint AS estimated_tokens,
       sum(model_s) AS model_s,
       sum(cost)::double precision AS cost
FROM lambent.usage_day
WHERE (%(from_day)s::date IS NULL OR day >= %(from_day)s)
  AND (%(to_day)s::date IS NULL OR day <= %(to_day)s)
  AND (%(client)s::text IS NULL OR client = %(client)s)
  AND (%(key)s::text IS NULL OR key_id = %(key)s)
  AND (%(agent)s::text IS NULL OR agent = %(agent)s)
  AND (%(model)s::text IS NULL OR model = %(model)s)
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 1, 2, 3, 4, 5, 6
LIMIT %(limit)s
