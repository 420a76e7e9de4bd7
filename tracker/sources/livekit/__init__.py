"""LiveKit, and so OpenVidu 3: webhooks proved by a JWT."""
