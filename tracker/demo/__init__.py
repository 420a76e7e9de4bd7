"""`tracker demo`: a server on a temporary log, and signed calls of every vendor."""
