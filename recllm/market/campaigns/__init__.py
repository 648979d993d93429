"""Campaigns from plan to report: who gets what, in which words, who said yes to it, and what it brought."""
