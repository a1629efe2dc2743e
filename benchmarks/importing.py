"""What `import seawall` costs over bare Python, cold, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import Row


def rows(*, quick: bool = False) -> list[Row]:
    """The import row."""
    rounds = 5 if quick else 20
    programs = {"bare": "pass", "import": "import seawall", "pipeline": "import seawall; seawall.Pipeline"}
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            best[name] = min(best[name], time.perf_counter() - began)
    bare = best["bare"]
    return [
        Row("import seawall, cold", (best["import"] - bare) * 1e3, "ms", "<= 30", "over bare Python"),
        Row("first use of Pipeline", (best["pipeline"] - bare) * 1e3, "ms", None, "over bare Python"),
    ]
