"""Two runs compared: the changes, and the command that prints them."""
