"""The statistics of the closed loop: who sees which variant, what may be said of it, what another policy would have
earned, and how slates and texts explore. Pure functions on frozen data; no store and no HTTP.
"""
