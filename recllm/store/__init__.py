"""The one place that keeps rows: SQLite by default, any database that SQLAlchemy speaks behind the same methods."""

from recllm.store.database import Store
from recllm.store.load import Load, LoadRecord
from recllm.store.readers import Reader
from recllm.store.writers import Written

__all__ = ["Load", "LoadRecord", "Reader", "Store", "Written"]
