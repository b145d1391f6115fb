"""The conditions of scripts/edge-conditions, and the server and clients that meet them."""
