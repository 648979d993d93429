"""Campaigns from plan to report."""
