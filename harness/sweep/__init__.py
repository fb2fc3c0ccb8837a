"""A selection of the suites' tests on many machines at once: `python -m harness.sweep`.

The engine is Ray. A selection becomes tasks (`plan`), each of which a worker runs as a process of the ordinary suites
(`worker`); its rows come back one by one (`dispatch`) into one run (`merged_run`).
"""
