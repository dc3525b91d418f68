"""The report: one folder with a page that shows a study."""
