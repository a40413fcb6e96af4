"""Reports: one self-contained page about a store, a run or a sweep, and the numbers behind it."""

from .report import Report, ReportConfig, report

__all__ = ["Report", "ReportConfig", "report"]
