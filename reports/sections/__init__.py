"""The sections of a page: each gives title, charts and tables for a run, or nothing."""
