"""The system under test as a value: its layout, its files, its processes and its judges.

`system` defines the fields of such a value. `chain` is the paper's scheme, `baseline` the
centralised service provider that the paper argues against; `known` finds a system by its name. All
other code of the testbed uses this value and does not know which systems exist.
"""
