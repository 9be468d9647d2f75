"""What tests share: real servers as processes."""
