"""The report of a run, one HTML file with pictures of all that the training left, and the comparison of runs."""
from cnn_numba.report.comparison import comparison_page
from cnn_numba.report.live import LiveReport
from cnn_numba.report.page import report_page, write_report
from cnn_numba.report.study import PICTURES, Study

__all__ = ["PICTURES", "LiveReport", "Study", "comparison_page", "report_page", "write_report"]
