"""Prefect flows, one a file: each task is a decorator, a log line and one call into muse_core."""
