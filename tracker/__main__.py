"""`python -m tracker`: the command line; the projector's process without the other commands.

So a server's projector starts in half the time, and takes 20 MB less.
"""

from __future__ import annotations

import sys

from tracker.cli.parent import end_with_parent

if "--end-with-parent" in sys.argv:
    end_with_parent()

if sys.argv[1:2] == ["project"]:
    from tracker.cli.project import main
else:
    from tracker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
