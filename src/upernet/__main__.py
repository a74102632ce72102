"""`python -m upernet`: the command line."""

from upernet.cli.main import main

if __name__ == "__main__":
    main()
