"""The report: one folder with a page that shows a study."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
