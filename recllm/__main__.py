"""`python -m recllm` is the command line."""

from recllm.cli.main import main

if __name__ == "__main__":
    main()
