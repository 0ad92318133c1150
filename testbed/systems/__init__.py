"""The system under test as a value: how it is laid out, made, run and judged.

`system` defines the fields of such a value. `chain` is the paper's scheme, `baseline` the
centralised service provider that the paper argues against; `known` finds a system by its name. All
other code of the testbed uses this value and does not know which systems exist.
"""
