"""One shop's folder: settings, store, key, consent gate, clock."""
