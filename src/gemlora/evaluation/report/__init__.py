"""The report: one HTML file without scripts that loads nothing."""

from gemlora.evaluation.report.page import report_page

__all__ = ["report_page"]
