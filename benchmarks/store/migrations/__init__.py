"""Alembic migrations of the store, run by `benchmarks.store.database` whenever a store is opened."""
