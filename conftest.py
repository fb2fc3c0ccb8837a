"""The plugin is registered here and nowhere else."""

pytest_plugins = ["harness.plugin"]
