"""`python -m upernet`: the command line."""

from upernet.cli.main import run

if __name__ == "__main__":
    run()
