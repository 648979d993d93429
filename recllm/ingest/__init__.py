"""The only way in: files become rows of the store, and what cannot is quarantined with its place and reason."""

from recllm.ingest.describe import describe
from recllm.ingest.load import ingest_file, open_reader
from recllm.ingest.mapping import Map, load_map, shipped_maps
from recllm.ingest.options import IngestOptions
from recllm.ingest.record import record_events

__all__ = [
    "IngestOptions",
    "Map",
    "describe",
    "ingest_file",
    "load_map",
    "open_reader",
    "record_events",
    "shipped_maps",
]
