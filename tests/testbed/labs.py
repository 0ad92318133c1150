"""A lab on this machine for campaigns of tests: fewer processes than the packaged one has."""

from __future__ import annotations

__all__ = ["SMALL_LAB"]

SMALL_LAB = """
schema: testbed.inventory/1
lab: small
hosts:
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  env1: {connection: local, roles: [environment]}
  phones: {connection: local, roles: [mobile], mobiles: 2}
boards:
  th01: {host: env1, firmware: {board: unix}}
"""
