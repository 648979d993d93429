"""The jobs of a workspace, from its store to an answer. The command line and the demonstration call these."""
