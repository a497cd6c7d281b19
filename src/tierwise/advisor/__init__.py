"""The advisor: read evidence, recommend a route for each task, apply it, go back, and keep the audit log."""

from __future__ import annotations

from tierwise.advisor.apply import Applied, Change, apply, changes_of, rollback
from tierwise.advisor.audit import AuditEntry, History, read_history, real_entries, routes_from_audit
from tierwise.advisor.plan import Coverage, Plan, plan, policy_for, task_names

__all__ = [
    "Applied",
    "AuditEntry",
    "Change",
    "Coverage",
    "History",
    "Plan",
    "apply",
    "changes_of",
    "plan",
    "policy_for",
    "read_history",
    "real_entries",
    "rollback",
    "routes_from_audit",
    "task_names",
]
