"""What takes an optimizer and is one."""
