"""The workspace as a service."""
