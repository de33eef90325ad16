"""`faststyle judge` and `faststyle compare`: how good results are."""

from __future__ import annotations
