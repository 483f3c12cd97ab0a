-- The hosts that may serve a ticket, where there are several; null: the ticket's host alone.
ALTER TABLE lambent.ticket ADD COLUMN hosts text[];

-- For who asks one host alone: whether tickets drawn for several could use it too.
CREATE INDEX ticket_several ON lambent.ticket (lease_until) WHERE hosts IS NOT NULL;
