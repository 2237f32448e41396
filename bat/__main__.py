"""``python -m bat STAGE``."""

from bat.cli import main

if __name__ == "__main__":
    main()
