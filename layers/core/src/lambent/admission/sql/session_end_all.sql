UPDATE lambent.api_key SET session_epoch = session_epoch + 1 WHERE id = %(id)s RETURNING id
