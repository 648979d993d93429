"""What people will do: buy, leave, redeem, order next, spend; with calibrated chances and the reasons of each."""
