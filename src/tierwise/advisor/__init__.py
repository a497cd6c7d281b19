"""The advisor: read evidence, recommend a route for each task, apply it, go back, and keep the audit log."""

from __future__ import annotations

from tierwise.advisor.apply import Applied, Change, apply, apply_automatically, automatic_changes, changes_of
from tierwise.advisor.audit import AuditEntry, History, read_history, real_entries, routes_from_audit
from tierwise.advisor.byhand import abort, can_roll_back, promote, rollback
from tierwise.advisor.plan import Coverage, Plan, plan, policy_for

__all__ = [
    "Applied",
    "AuditEntry",
    "Change",
    "Coverage",
    "History",
    "Plan",
    "abort",
    "apply",
    "apply_automatically",
    "automatic_changes",
    "can_roll_back",
    "changes_of",
    "plan",
    "policy_for",
    "promote",
    "read_history",
    "real_entries",
    "rollback",
    "routes_from_audit",
]
