"""Chart specifications, tables and units."""
