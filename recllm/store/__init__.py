"""The one place that keeps rows: SQLite by default, any database that SQLAlchemy speaks behind the same methods."""
