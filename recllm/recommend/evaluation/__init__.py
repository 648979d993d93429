"""Measures recommenders on windows of a log, side by side, with the same code for every system.

window = cj_next28(complete_journey())
report = evaluate(window, make_systems(["popular", "personal-frequency"]))
print(report.table())
"""
