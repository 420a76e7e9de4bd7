"""OpenVidu Meet: signed webhooks."""
