"""How far measurements can be trusted on this machine."""
