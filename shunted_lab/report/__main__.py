"""Make the report of an experiment anew, as far as it has come; nothing is trained.

python -m shunted_lab.report experiment=ablate_embed
"""

from __future__ import annotations

import sys

from shunted_lab.config import ConfigError


def main(words: list[str] | None = None) -> int:
    """Run the command with the words that the experiment was run with. Returns 1 for a mistake or an open run."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        from shunted_lab.report.collect import load_study
        from shunted_lab.report.write import write_report

        data = load_study(words)
        if not data.folder.exists():
            raise ConfigError(f"{data.folder}: there is no such study; run the experiment first, or set runs_dir=...")
        for path in write_report(data):
            print(path)
        for problem in data.problems:
            print(f"warning: {problem}", file=sys.stderr)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if data.table.complete else 1


if __name__ == "__main__":
    sys.exit(main())
