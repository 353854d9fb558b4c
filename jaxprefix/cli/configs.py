"""What commands read: configs from files, fields from options."""

import dataclasses
import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError


def load_config(path: str) -> Any:
    """The `Run` that a config file's function `config()` returns.

    Raises:
      UserError: there is no such file, it fails, or it returns something else.
    """
    check_file(path, "config", "config file")
    from jaxprefix.training.config import Run

    run = result_of(path, "config", "config file")
    if not isinstance(run, Run):
        raise UserError(f"config() in {path} returns a {type(run).__name__}; it must return a jaxprefix.Run.")
    return run


def result_of(path: str, function: str, kind: str) -> Any:
    """What the function of that name in a Python file returns."""
    file = check_file(path, function, kind)
    spec = importlib.util.spec_from_file_location(f"{function}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; name one that defines {function}().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} fails with {type(error).__name__}: {error}{_nearest_field(error)}; correct the file."
        ) from error


def check_file(path: str, function: str, kind: str) -> Path:
    """The file that is to define a function. `UserError` where there is none."""
    file = Path(path)
    if not file.is_file():
        near = sorted(str(found) for found in file.parent.glob("*.py")) if file.parent.is_dir() else []
        known = f"; {file.parent} has {', '.join(near)}" if near else ""
        raise UserError(f"there is no {kind} {path}{known}; name a Python file that defines {function}().")
    return file


def check_config(args: Sequence[str], program: str, flags: str = "") -> None:
    """Prints the usage and exits where no config is named, and refuses an option in its place, before JAX is imported
    and before processes meet, of which one alone may lack the file."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} CONFIG.py [--field value ...]{flags}\n\n{program} CONFIG.py --help lists the fields.")
        raise SystemExit(0 if args else 2)
    if args[0].startswith("-"):
        raise UserError(f"the option {args[0]} stands where the config file is to be; name a Python file first.")


def _nearest_field(error: Exception) -> str:
    """For a field that none of our classes has: the one that was probably meant."""
    found = re.search(r"(?:(\w+)\.__init__\(\) )?got an unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or found is None:
        return ""
    import jaxprefix

    public = [getattr(jaxprefix, name) for name in jaxprefix.__all__]
    classes = [cls for cls in public if isinstance(cls, type) and dataclasses.is_dataclass(cls)]
    classes = [cls for cls in classes if found[1] in (None, cls.__name__)]
    fields = {field.name for cls in classes for field in dataclasses.fields(cls)}
    near = difflib.get_close_matches(found[2], fields, n=1)
    return f" (the nearest field is {near[0]!r})" if near else ""


def parse_run(args: Sequence[str], program: str, flags: str = "") -> Any:
    """`CONFIG [--field.sub value ...]` as a `Run`: the file's value with fields overridden by name; `flags` are those
    that the program has beside them, for its help."""
    check_config(args, program, flags)
    import tyro

    run = load_config(args[0])
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def _(info: Any) -> Any:
        """What is stored as something else (rows in memory) has no fields that could be written on a command line."""
        if not hasattr(info.type, "__stored__"):
            return None
        return tyro.constructors.StructConstructorSpec(instantiate=lambda: info.default, fields=())

    options: dict[str, Any] = {"prog": f"{program} {args[0]}", "args": list(args[1:]), "registry": registry}
    options["config"] = (tyro.conf.AvoidSubcommands,)
    if not isinstance(run.backbone, str):
        return tyro.cli(type(run), default=run, **options)
    # a union of text and a dataclass is no option for tyro while subcommands are avoided: the text alone is
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    narrowed: list[Any] = [("backbone", str)]
    if run.start is not None:  # an optional value of a base class is none either: its own class is
        narrowed.append(("start", type(run.start), dataclasses.field(default=run.start)))
    named = dataclasses.make_dataclass("Run", narrowed, bases=(type(run),), frozen=True)
    named.__doc__ = type(run).__doc__
    found = tyro.cli(named, default=named(**fields), **options)
    return type(run)(**{name: getattr(found, name) for name in fields})
