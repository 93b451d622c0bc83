"""Libraries that plot stay out of memory until somebody plots."""

import subprocess
import sys
from pathlib import Path

import demo_host

# A process of its own: what is imported here would stay.
SCRIPT = """
import sys
from demo_host.lighter import leave_plotting_out
leave_plotting_out()
import altair, matplotlib, matplotlib.pyplot as plt
from matplotlib import animation
matplotlib.use("agg")
assert matplotlib.get_backend() == "agg"
assert not hasattr(altair, "__wrapped__")
try:
    import pyarrow
    raise SystemExit("pyarrow was imported")
except ImportError:
    pass
assert "real" not in vars(sys.modules["matplotlib"])
assert plt.figure() == "a figure"
import matplotlib
assert matplotlib.real
"""


def test_they_are_imported_when_something_of_them_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "matplotlib"
    folder.mkdir()
    (folder / "__init__.py").write_text("real = True\n")
    (folder / "pyplot.py").write_text("def figure():\n    return 'a figure'\n")
    (tmp_path / "pyarrow.py").write_text("")
    environment = {"PYTHONPATH": f"{Path(demo_host.__file__).parent.parent}:{tmp_path}"}
    ended = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
