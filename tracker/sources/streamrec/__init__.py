"""eyeson StreamRec: webhooks proved by a token in the address."""
