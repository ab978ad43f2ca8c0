"""Run the tables of faults and print each case with what it gave: python tests/print_faults.py [pytest arguments]"""

import sys
from pathlib import Path

import pytest

WIDTH = 150  # of what a case gave; the whole line is in the test's own report


class Table:
    """Notes what `Bench.start` records: exit status and the line that explains it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        gave = [str(value) for name, value in report.user_properties if name == "gave"]
        name = report.nodeid.partition("::")[2].removeprefix("test_")
        self.lines.append(f"{report.outcome:7} {name}\n        {gave[-1][:WIDTH] if gave else 'no script started'}")


def main() -> int:
    table, folder = Table(), Path(__file__).parent / "faults"
    files = sorted(str(path) for path in folder.glob("test_faults_*.py"))
    status = pytest.main(["-q", "--no-summary", *files, *sys.argv[1:]], plugins=[table])
    print("\n".join(table.lines))
    print(f"{len(table.lines)} cases, {sum(line.startswith('passed') for line in table.lines)} as they should be")
    return int(status)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
