"""One module per command of `testbed`; `testbed.cli` lists them.

The module of a command (`plan`) has a function of its name. The module of a group (`inventory`) has
a Typer `app` with several `@app.command()`; give it `add_completion=False`, or its help lists shell
completion. Raise `TestbedError` kinds with a message that names the fix; end with `typer.Exit(1)`
when a property failed.
"""
