"""How a policy is judged: from tasks to a Report with intervals, and what a report says of others.

protocol: rounds of acting and adapting on tasks, and the report.  statistics, report_fields: its
intervals, and its JSON.  divergence: failed physics in it.  score: against the task-blind policy
and the oracle.  probe, sweep: whether it adapts, and to what; over the values of a parameter.
stream: tasks that change without notice.
"""

from metarl.base.lazy import lazy

__getattr__ = lazy(__name__, {"protocol": "Report evaluate stand_still"})
