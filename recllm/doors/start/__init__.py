"""All steps in one command, on a shop's own exports or on a public log."""
