"""Messages that leave: addresses from the shop's file, mails, and an outbox that lets each leave at most once."""
