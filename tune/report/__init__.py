"""The report of what mattered in a search: a table of trials in, a page and its figures out.

The seed's idea (lesson 11): train many models with settings at random, and let a random forest tell
which settings mattered. What may surprise: the report prefers silence to a guess; with too few
trials, or where the forest explains nothing, it ranks nothing.
"""

from tune.report.writing import NEEDS, ReportSettings, write_report

__all__ = ["NEEDS", "ReportSettings", "write_report"]
