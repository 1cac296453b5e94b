"""``python -m orchestrator`` is ``sweep``."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
