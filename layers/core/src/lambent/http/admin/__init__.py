"""The admin pages: rendered on the server, asking the same API that everybody else may ask.

A page never reaches a store. It calls the API in this process, as the person who is signed in
(`api.py`), so it can neither see nor do more than that person's key; forms are the few actions of
`actions.py`, each one call of the API. `session.py` holds what a browser adds to that: cookie,
CSRF token, origin.
"""
