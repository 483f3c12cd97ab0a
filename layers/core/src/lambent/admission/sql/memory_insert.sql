INSERT INTO lambent.memory (id, client, model, content, embedding)
VALUES (%(id)s, %(client)s, %(model)s, %(content)s, %(embedding)s::real[])
ON CONFLICT (id) DO NOTHING
