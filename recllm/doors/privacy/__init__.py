"""A person's rights: erase, export, restrict; how long things are kept; keys; backups."""
