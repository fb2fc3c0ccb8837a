"""pytest integration: options, collection, fixtures, rows, and the account at the end.

Loading `harness.plugin`, from ``pytest_plugins`` or with ``-p``, loads the modules that hold hooks and fixtures.
"""

pytest_plugins = [
    "harness.plugin.hooks",
    "harness.plugin.collection",
    "harness.plugin.fixtures",
    "harness.plugin.report_rows",
    "harness.plugin.terminal",
]
