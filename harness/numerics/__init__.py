"""Dispatch modes and graph readers that checks and measurements stand on; depends on torch alone."""
