"""A web page that runs styles on the visitor's device: `faststyle export --format web`."""
