"""Deprecated: `metarl.report.charts` has the plots."""

from metarl.report.charts import adaptation_figure, plot_adaptation, plot_comparison, plot_results

__all__ = ["adaptation_figure", "plot_adaptation", "plot_comparison", "plot_results"]
