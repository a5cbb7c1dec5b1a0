"""`python -m dinac_cli`."""

from dinac_cli.cli import main

if __name__ == "__main__":
    main()
