"""The benchmark: what headrace adds to a model server, beside bare Serve apps in the same run."""
