"""The verbs of `headrace`; each lives in the file of its name and imports what is heavy when it runs."""

import typer

from pipeline.cli import (
    ask,
    audit,
    canary,
    doctor,
    files,
    index,
    ingest,
    keys,
    models,
    openapi,
    plan,
    prompts,
    reload,
    serve,
    stop,
    stores,
    tenants,
    top,
    trace,
    usage,
)

app = typer.Typer(
    name="headrace",
    help="A real-time generative-AI service on Ray Serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command("serve")(serve.serve)
app.command("stop")(stop.stop)
app.command("reload")(reload.reload)
app.command("ingest")(ingest.ingest)
app.command("ask")(ask.ask)
app.command("doctor")(doctor.doctor)
app.command("usage")(usage.usage)
app.command("top")(top.top)
app.command("trace")(trace.trace)
app.command("openapi")(openapi.openapi)
app.command("plan")(plan.plan)
app.add_typer(stores.app, name="stores")
app.add_typer(files.app, name="files")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(audit.app, name="audit")
app.add_typer(prompts.app, name="prompts")
app.add_typer(canary.app, name="canary")
app.add_typer(index.app, name="index")


def main() -> None:
    """Run the command line."""
    app()
