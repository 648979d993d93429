"""The whole way in one command: on a shop's own exports, and on one public log."""
