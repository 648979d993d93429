"""Whom a treatment moves: S-, T- and X-learner on trials, and how well they order people (Qini)."""
