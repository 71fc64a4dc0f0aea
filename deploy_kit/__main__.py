"""Run the command line with ``python -m deploy_kit``."""

from deploy_kit.cli.main import main

if __name__ == "__main__":
    main()
