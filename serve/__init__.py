"""The Ray Serve applications: translator, search, and the gateway before them."""
