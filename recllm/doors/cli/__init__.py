"""The command line: parse, call one library function, print.

Results go to standard output, logs and progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong use or input,
3 nothing to do, 4 refused by policy.
"""
