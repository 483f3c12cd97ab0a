SELECT content, likeness
FROM lambent.memory
CROSS JOIN LATERAL (
    SELECT sum(a::float8 * b) / nullif(sqrt(sum(a::float8 * a) * sum(b::float8 * b)), 0) AS likeness
    FROM unnest(embedding, %(embedding)s::real[]) AS both_of (a, b)
) AS compared
WHERE client = %(client)s AND model = %(model)s
    AND cardinality(embedding) = cardinality(%(embedding)s::real[])
ORDER BY likeness DESC NULLS LAST
LIMIT %(limit)s
