"""What is under test, as a value: how it is laid out, made, run and judged.

`system` says what such a value has. `chain` is the paper's scheme, `baseline` the centralised
service provider that the paper argues against; `known` finds one by its name. All other code of the
testbed asks this value and does not know which systems there are.
"""
