"""Schema steps for alembic, run by `store/migrate.py`; each file of `versions/` is one, and is never changed later."""
