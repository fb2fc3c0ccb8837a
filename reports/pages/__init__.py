"""Pages: their order of sections, templates, styles and scripts."""
