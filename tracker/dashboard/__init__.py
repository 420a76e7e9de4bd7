"""The dashboard: HTML pages made from the read API. Every page works without JavaScript."""
