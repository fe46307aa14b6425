"""Run the benchmarks one after another and put their figures in one table and one JSON object.

python -m benchmarks                     all of them
python -m benchmarks read_roi_views      some of them
"""

import argparse
import json
import pkgutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run(name: str) -> dict[str, Any]:
    """The JSON of one benchmark, whose own output goes on to the terminal; `failed` where it has none."""
    print(f"\n== {name}", flush=True)
    begun, last = time.perf_counter(), ""
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    try:
        figures = json.loads(last) if process.returncode == 0 else None
    except json.JSONDecodeError:
        figures = None
    result = figures if isinstance(figures, dict) else {"failed": f"exit status {process.returncode}"}
    return {"benchmark": name, **result, "seconds": round(time.perf_counter() - begun, 1)}


def main() -> None:
    known = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name != "__main__"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*known, []], help="which to run; all when none is named")
    results = [run(name) for name in parser.parse_args().names or known]
    print(f"\n{'benchmark':<20}{'figure':<32}{'value':>12}")
    for result in results:
        figures = {key: value for key, value in result.items() if isinstance(value, int | float) or key == "failed"}
        for key, value in figures.items():
            print(f"{result['benchmark']:<20}{key:<32}{f'{value:.4g}' if isinstance(value, float) else value!s:>12}")
    print(json.dumps(results))
    sys.exit(any("failed" in result for result in results))


if __name__ == "__main__":
    main()
