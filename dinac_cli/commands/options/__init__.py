"""Every argument and option, its help and its default, spelled once; by what it is about."""

# ruff: noqa: F403 - this is one namespace, in modules of its own

from dinac_cli.commands.options.benchmark import *
from dinac_cli.commands.options.first_steps import *
from dinac_cli.commands.options.geometry import *
from dinac_cli.commands.options.inputs import *
from dinac_cli.commands.options.looking import *
from dinac_cli.commands.options.models import *
from dinac_cli.commands.options.running import *
from dinac_cli.commands.options.sampling import *
from dinac_cli.commands.options.storing import *
from dinac_cli.commands.options.training import *
