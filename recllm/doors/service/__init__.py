"""The workspace as a service: live recommenders, an HTTP interface with keys, and events that count at once."""
