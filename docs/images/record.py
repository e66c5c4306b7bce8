"""Draw a command's output: `FORCE_COLOR=1 testbed up 2>&1 | python docs/images/record.py 'make up' up.svg`."""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Read ANSI text from standard input, write the picture."""
    title, target = sys.argv[1:3]
    text = Text.from_ansi(f"$ {title}\n" + sys.stdin.read())
    width = max(len(line) for line in text.plain.splitlines())
    console = Console(record=True, width=min(width + 1, 132), file=io.StringIO(), force_terminal=True)
    console.print(text)
    Path(target).write_text(console.export_svg(title=title))


if __name__ == "__main__":
    main()
