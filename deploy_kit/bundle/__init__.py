"""What a bundle is, for whoever writes, judges or runs one."""
