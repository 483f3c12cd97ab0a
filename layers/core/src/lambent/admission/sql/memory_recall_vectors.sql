SELECT content, 1 - (embedding::vector <=> %(embedding)s::real[]::vector) AS likeness
FROM lambent.memory
WHERE client = %(client)s AND model = %(model)s
    AND cardinality(embedding) = cardinality(%(embedding)s::real[])
ORDER BY embedding::vector <=> %(embedding)s::real[]::vector
LIMIT %(limit)s
