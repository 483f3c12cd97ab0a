-- What agents remember for a client. The vectors are plain arrays, which pgvector reads as its own
-- where it is there; where it may not be installed, cosines are computed without it.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS vector;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'pgvector is not here: %', SQLERRM;
END $$;

CREATE TABLE lambent.memory (
    id text PRIMARY KEY,
    client text NOT NULL,
    model text NOT NULL,
    content text NOT NULL,
    embedding real[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX memory_of_client ON lambent.memory (client, model);
