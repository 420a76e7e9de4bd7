"""The window: pages to look at calls with, made of the read API's own queries; each page answers without JavaScript."""
