"""Run the benchmarks one after another (`python -m benchmarks [NAME]...`) and gather their figures."""

import argparse
import json
import pkgutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NEED_DATA = ("muse_ablation", "ndc_arms")  # run by hand, with the data they are about


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
    known = [
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if module.name not in ("__main__", *NEED_DATA)
    ]
    parser = argparse.ArgumentParser("python -m benchmarks", description="Run benchmarks, all when none is named.")
    parser.add_argument("names", nargs="*", help=", ".join(known))
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    results = [run(name) for name in names]
    print(f"\n{'benchmark':<20}{'figure':<32}{'value':>12}")
    for result in results:
        figures = {key: value for key, value in result.items() if isinstance(value, int | float) or key == "failed"}
        for key, value in figures.items():
            print(f"{result['benchmark']:<20}{key:<32}{f'{value:.4g}' if isinstance(value, float) else value!s:>12}")
    print(json.dumps(results))
    sys.exit(any("failed" in result for result in results))


if __name__ == "__main__":
    main()
