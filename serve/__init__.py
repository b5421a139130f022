"""The Ray Serve applications: translator, search, and the gateway in front of them."""
