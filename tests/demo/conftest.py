"""The helpers of the workflow's tests, for the demo too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "workflow"))
