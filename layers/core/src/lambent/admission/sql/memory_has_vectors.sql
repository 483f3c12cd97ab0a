SELECT to_regtype('vector') IS NOT NULL AS found
