"""The command line: ``convops info | check | bench | train | ...``."""

from __future__ import annotations

import importlib

try:
    import click
except ImportError:
    raise SystemExit("convops needs more than the library does: run `pip install 'torch_convops[cli]'`") from None

# Subcommand, its line in the help; the module of the same name has the click command ``command``.
COMMANDS = {
    "info": "Show versions, devices and the operators of the compiled library.",
    "check": "Check the operators against the reference on this machine.",
    "bench": "Time the operators against torch's.",
    "train": "Train the apparel classifiers.",
    "ablate": "Measure each cure of over-fitting, alone and added up.",
    "predict": "Classify photographs with a trained classifier.",
    "equivariance": "Measure how a trained classifier takes it when its pictures move.",
    "zoo": "Convert torchvision's and timm's models and compare them with what they were.",
}


class _LazyGroup(click.Group):
    """Imports a subcommand when it is used, so that the help is quick and one broken command stays alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Convolution and pooling operators for PyTorch."""
