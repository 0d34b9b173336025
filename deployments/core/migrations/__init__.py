"""How the schema came to be: one file in `versions/` for each change, run in order by `deployments.core.schema`."""
