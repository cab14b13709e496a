"""The table of second_run.py: measured in pieces, kept as CSV, and shown in a document between two markers."""

import csv
from pathlib import Path

from material import machine

HEADER = ["part", "what", "measured", "target", "met", "machine"]
MARKS = "<!-- second_run.csv -->", "<!-- end -->"


class Table:
    """The rows measured so far."""

    def __init__(self):
        self.rows: list[list[str]] = []

    def add(self, part: str, what: str, measured: str, target: str = "", met: bool | None = None) -> None:
        """Note a row, and say it at once."""
        self.rows.append([part, what, measured, target, {None: "", True: "yes", False: "no"}[met], machine()])
        print(f"{part}: {what}: {measured} (target {target or 'none'})", flush=True)


def write_csv(path: Path, rows: list[list[str]], parts: list[str]) -> list[list[str]]:
    """Put rows into a table in place of those of their parts, in the order of the parts; -> all of its rows."""
    measured = {row[0] for row in rows}
    earlier = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            earlier = [row for row in list(csv.reader(file))[1:] if row[0] not in measured]
    rows = sorted([*earlier, *rows], key=lambda row: parts.index(row[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    return rows


def write_docs(path: Path, rows: list[list[str]]) -> None:
    """Put the table between the markers of a document."""
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0])
    lines = [HEADER[1:5], ["---"] * 4, *(row[1:5] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    machines = "; ".join(dict.fromkeys(row[5] for row in rows))
    text = f"{before}{MARKS[0]}\n{table}\n\n{machines}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"
    path.write_text(text, encoding="utf-8")
