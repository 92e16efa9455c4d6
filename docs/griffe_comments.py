"""Comments that begin with #: document the attribute below them: the API reference gets them as its docstring."""

import itertools
from pathlib import Path

import griffe


class Comments(griffe.Extension):
    """Reads the comments from the source, which griffe itself does not look into."""

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: object) -> None:
        """Takes the lines right above the attribute."""
        path = attr.filepath
        if attr.docstring or attr.lineno is None or not isinstance(path, Path) or path.suffix != ".py":
            return
        above = reversed(path.read_text(encoding="utf-8").splitlines()[: attr.lineno - 1])
        stripped = (line.strip() for line in above)
        lines = [line[2:].strip() for line in itertools.takewhile(lambda line: line.startswith("#:"), stripped)]
        if lines:
            attr.docstring = griffe.Docstring("\n".join(reversed(lines)), parent=attr)
