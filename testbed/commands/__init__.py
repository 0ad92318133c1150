"""One module per command of `testbed`, each with a Typer `app`; `testbed.cli` lists them.

An app with one `@app.command()` is a command (`plan`), one with several is a group (`inventory`).
Give it `add_completion=False`, or its help lists shell completion. Raise `TestbedError` kinds with
a message that names the fix; end with `typer.Exit(1)` when a property failed.
"""
