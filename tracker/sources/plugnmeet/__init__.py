"""plugNmeet: webhooks proved by a JWT, some relayed from its LiveKit."""
