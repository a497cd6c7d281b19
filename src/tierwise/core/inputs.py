"""The hash of all inputs of a decision: the same for the same policy, route, moment and evidence, on any machine."""

from __future__ import annotations

import hashlib

from tierwise.core.columns import TaskEvidence
from tierwise.core.policy import TaskPolicy
from tierwise.core.recommendation import canonical_json
from tierwise.core.route import Route


def hash_inputs(evidence: TaskEvidence, policy: TaskPolicy, route: Route | None, now: int) -> str:
    """BLAKE2b (128 bits, hex) over everything a decision depends on."""
    digest = hashlib.blake2b(canonical_json((policy, route, now)), digest_size=16)
    digest.update(evidence.digest())
    return digest.hexdigest()
