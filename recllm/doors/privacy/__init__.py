"""A person's rights: erasure, export, restriction; retention; exchange of the key; backups."""
