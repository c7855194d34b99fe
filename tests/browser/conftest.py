"""The page is drawn from the same run that the unit tests of the report read."""

import runpy
from pathlib import Path

make_evaluated_run = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "conftest.py"))["make_evaluated_run"]
