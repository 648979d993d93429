"""What people will do: buy, leave, redeem, order next, spend."""
