INSERT INTO lambent.audit (id, key_id, key_name, client, action, target, via, address, request_id)
VALUES (%(id)s, %(key_id)s, %(key_name)s, %(client)s, %(action)s, %(target)s, %(via)s, %(address)s,
        %(request_id)s)
