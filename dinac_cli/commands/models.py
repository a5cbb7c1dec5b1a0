"""`dinac models list|pull|show`."""

import typer

from dinac_cli.commands import options as opt

models = typer.Typer(
    name="models", no_args_is_help=True, help="List, fetch and describe models; see its commands."
)


@models.command("list")
def list_models(as_json: opt.ModelsJson = False) -> None:
    """List the models that have a short name, and which of them are here."""
    from dinac_cli.commands.describing import report_models
    from dinac_cli.commands.screen.console import Console

    report_models(as_json, Console())


@models.command("pull")
def pull(model: opt.HubModel, revision: opt.Revision = None) -> None:
    """Fetch a model from the Hub into its cache; run it again to go on where it stopped."""
    from dinac_cli.commands.describing import report_pulled
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.models.registry import pull_model

    report_pulled(pull_model(model, revision), Console())


@models.command("show")
def show(
    model: opt.ModelName, revision: opt.Revision = None, as_json: opt.ModelsJson = False
) -> None:
    """Describe a model that is here: sizes, identities, precision, licence. Fetches nothing."""
    from dinac_cli.commands.describing import report_model
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.models.registry import find_local

    report_model(find_local(model, revision), as_json, Console())
