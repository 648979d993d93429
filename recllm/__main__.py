"""`python -m recllm` is the command line."""

from recllm.doors.cli.main import main

if __name__ == "__main__":
    main()
