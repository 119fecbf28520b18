"""How the command line is parsed: typing errors name the nearest option, and shells can complete what is typed."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from precomputed_fs.errors import did_you_mean

SHELLS = ("bash", "zsh", "tcsh")


class Parser(argparse.ArgumentParser):
    """A parser whose errors name what was probably meant."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse a command line; what is not known is reported by the parser of its command."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            vars(args).get("parser", self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return args

    def error(self, message: str) -> NoReturn:
        """Report wrong usage, and exit."""
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            return did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        if option := re.match(r"unrecognized arguments: (?:.* )?(--[\w-]+)", message):
            return did_you_mean(option[1], self._option_string_actions)
        return ""


class PrintCompletion(argparse.Action):
    """Prints a script that completes the command line in a shell."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - one of the choices
        _option: str | None = None,
    ) -> NoReturn:
        """Print the script, and exit."""
        try:
            import shtab  # noqa: PLC0415 - optional
        except ImportError as exc:
            message = "--print-completion needs shtab: pip install 'precomputed-fs[completion]'"
            raise ImportError(message, name="shtab") from exc
        print(shtab.complete(parser, shell=values))
        parser.exit()


def completing_files(action: argparse.Action) -> None:
    """Have shells complete an argument with the names of files: see `shtab.FILE`."""
    vars(action)["complete"] = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
