"""JaaS (8x8): signed webhooks of the hosted Jitsi."""
