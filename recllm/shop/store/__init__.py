"""The one place that keeps rows: SQLite by default, or a schema of PostgreSQL, behind the same methods."""
