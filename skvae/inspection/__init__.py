"""Looks into fitted models: what their numbers consist of."""

from skvae.inspection._evidence import EvidenceDecomposition, evidence_decomposition

__all__ = ["EvidenceDecomposition", "evidence_decomposition"]
